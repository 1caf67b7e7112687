import re
import subprocess
import tarfile
import threading
from dataclasses import replace
from types import SimpleNamespace

import hpccm
import pytest

from minsky.errors import MinskyError
from minsky.images import __main__ as command
from minsky.images import build, engine, recipes, sif, strict
from minsky.images.build import tar_of
from minsky.images.recipes import Target, image


def test_a_keyword_that_hpccm_would_ignore_is_refused_with_the_right_ones():
    with pytest.raises(MinskyError, match=r"apt_get\(package=.*ospackages.*\.$"):
        strict.apt_get(package=["cmake"])


def test_what_hpccm_warns_of_is_an_error():
    with pytest.raises(MinskyError, match="Unable to determine the Linux distribution"):
        strict.baseimage(image="debian:trixie")


def test_a_block_that_hpccm_does_not_have_is_an_import_error():
    with pytest.raises(AttributeError, match="aptget"):
        strict.aptget  # noqa: B018


@pytest.mark.parametrize(
    ("name", "arch", "ubuntu"),
    [("lab", "x86_64", 22), ("node", "x86_64", 24), ("lab", "ppc64le", 22)],
)
def test_a_stage_states_distribution_and_architecture_and_carries_our_labels(name, arch, ubuntu):
    text = str(strict.stage(replace(image(name), target=Target(arch, "cpu")), "build"))
    assert text.startswith("FROM ${BASE} AS build")
    assert f"minsky.image={name} " in text
    assert f"minsky.target={arch}-cpu" in text
    assert hpccm.config.g_cpu_arch.name.lower() == arch
    assert (hpccm.config.g_linux_distro.name, hpccm.config.g_linux_version.major) == ("UBUNTU", ubuntu)


def test_an_unknown_image_is_refused_with_the_list_of_images():
    with pytest.raises(MinskyError, match=r"^There is no image 'labb'; the images are .*lab.*\.$"):
        image("labb")


def test_an_unknown_target_is_refused_with_the_list_of_targets():
    with pytest.raises(MinskyError, match=r"no target 'vax-cpu'; its targets are x86_64-cpu\.$"):
        image("lab", "vax-cpu")


def test_the_key_is_the_same_for_the_same_content():
    assert image("lab").key == image("lab").key
    assert len(image("lab").key) == 12


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An image in a directory of its own: one file, one line."""
    monkeypatch.setattr(recipes, "IMAGES", tmp_path)
    monkeypatch.setattr(recipes, "ROOT", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "file").write_text("one")

    def stages(of):
        first = strict.stage(of, "first")
        first += strict.environment(variables={"ONLY_IN": "first"})
        made = strict.stage(of, "tiny")
        made += strict.copy(src="host-ca.crt", dest="/tmp/ca")
        made += strict.copy(src="file", dest="/file")
        made += strict.environment(variables=of.recipe.variables)
        return [first, made]

    variables = {"PATH": "/x:/bin", "B": "x=y"}
    recipe = SimpleNamespace(BASE="trixie", NEEDS_GB=10, stages=stages, variables=variables)
    return recipes.Image("tiny", Target("x86_64", "cpu"), recipe)


def test_a_changed_context_file_changes_the_key(tiny):
    before = tiny.key
    (tiny.directory / "file").write_text("two")
    assert tiny.key != before


def test_another_architecture_changes_the_key(tiny):
    assert replace(tiny, target=Target("ppc64le", "cpu")).key != tiny.key


def test_a_newer_base_changes_the_key():
    base = image("node").base
    assert recipes.base_key({**base, "renewed": "later"}, "x86_64") != recipes.base_key(base, "x86_64")


def test_files_that_no_copy_names_and_the_hosts_certificates_are_not_part_of_the_content(tiny):
    before = tiny.key
    (tiny.directory / "README.md").write_text("words")
    assert tiny.key == before
    assert list(tiny.context) == ["file"]


def test_a_file_that_a_recipe_copies_and_nobody_wrote_is_named(tiny):
    (tiny.directory / "file").unlink()
    with pytest.raises(MinskyError, match=r"tiny/file is missing, which .*recipe.py copies: write it"):
        _ = tiny.key


def test_an_image_without_a_test_must_say_why_before_it_is_built(tiny, monkeypatch):
    with pytest.raises(MinskyError, match=r"images/tiny/selftest\.py is missing.*UNTESTED = 'reason'"):
        build._build(tiny)
    tiny.recipe.UNTESTED = "it is a toy"
    assert build.selftest(tiny, "minsky/tiny:1") == "Image tiny has no test of its own: it is a toy."
    (tiny.directory / "selftest.py").touch()
    assert tiny.selftest == tiny.directory / "selftest.py"


def test_render_writes_every_target_of_the_image_that_is_named(tiny, tmp_path, monkeypatch):
    other = replace(tiny, target=Target("ppc64le", "cpu"))
    monkeypatch.setattr(recipes, "catalogue", lambda: {"tiny": [tiny, other]})
    monkeypatch.setattr(recipes, "RENDERED", tmp_path)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    command._render("tiny")
    assert tiny.rendered.read_text() == tiny.dockerfile()
    assert other.rendered.read_text() == other.dockerfile()


@pytest.fixture
def cache(tiny, tmp_path, monkeypatch):
    """A cache of its own, and no Docker daemon."""
    monkeypatch.setattr(sif, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(recipes, "catalogue", lambda: {"tiny": [tiny], "apptainer": [tiny]})
    monkeypatch.setattr(build.dockerd, "daemon", lambda: None)
    monkeypatch.setattr(sif.shutil, "which", lambda _: "/usr/bin/apptainer")
    return tmp_path / "cache"


def test_room_for_building_and_converting_is_needed_until_the_wanted_sif_is_there(tiny, cache):
    (cache / "sif").mkdir(parents=True)
    (cache / "sif" / "tiny-x86_64-0123456789ab.sif").touch()  # of another content
    assert [gb for _, gb, _ in sif.needs("tiny")] == [10, 0.5, 4]
    sif.sif_path(tiny).touch()
    assert sif.needs("tiny") == []


def test_an_image_that_docker_has_needs_no_room(tiny, cache, monkeypatch):
    daemon = SimpleNamespace(images=SimpleNamespace(list=lambda name: [name]))
    monkeypatch.setattr(build.dockerd, "daemon", lambda: daemon)
    assert build.needs("tiny") == []
    assert [gb for _, gb, _ in sif.needs("tiny")] == [4]


def test_a_failed_build_shows_the_step_its_last_lines_and_what_to_type(tiny, monkeypatch, tmp_path):
    said = [{"stream": "Step 2/2 : RUN false\n"}, {"stream": "no\n"}, {"error": "returned 1"}]
    api = SimpleNamespace(build=lambda **_: iter(said))
    monkeypatch.setattr(build, "docker", lambda: SimpleNamespace(api=api))
    monkeypatch.setattr(build, "_ca_bundle", lambda: tiny.directory / "file")
    with pytest.raises(MinskyError) as caught:
        build._stream(tiny, "base", 0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Image tiny was not built: returned 1"
    assert "python -m minsky.images build tiny" in lines[1]
    assert [line.strip() for line in lines[2:]] == ["step: RUN false", "its last lines:", "no"]


@pytest.mark.parametrize("status", [0, 1])
def test_a_conversion_leaves_nothing_but_the_sif_which_root_may_have_written(tmp_path, status):
    """`apptainer` is a stand-in here; `make cluster` converts with a real one."""
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(f"#!/bin/sh\nmkdir cache && ls rootfs >image.sif && exit {status}\n")
    apptainer.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "rootfs.tar").write_bytes(tar_of({"etc-hostname": b"lab"}).getvalue())
    environment = {"PATH": f"{apptainer.parent}:/usr/bin:/bin", "SQUASHFS": ""}
    done = subprocess.run(["sh", sif._SCRIPT], cwd=scratch, env=environment, check=False)
    assert done.returncode == status
    assert [path.name for path in scratch.iterdir()] == ["image.sif"]
    assert (scratch / "image.sif").read_text() == "etc-hostname\n"


def test_two_commands_that_need_the_same_image_take_turns(monkeypatch, tmp_path):
    order, waits = [], threading.Event()
    monkeypatch.setattr(engine, "CACHE", tmp_path)
    monkeypatch.setattr(engine, "console", SimpleNamespace(print=lambda _: waits.set()))

    def second():
        with engine.locked("image"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with engine.locked("image"):
        waiting.start()
        assert waits.wait(timeout=10), "the second command did not say that it waits"
        order.append("first")
    waiting.join(timeout=10)
    assert order == ["first", "second"]


def test_a_sif_keeps_the_environment_that_docker_keeps_beside_an_image(tiny):
    assert tiny.environment == {"PATH": "/x:/bin", "B": "x=y"}
    exported = re.findall(r"^    export (.*)$", sif.definition(tiny), re.MULTILINE)
    assert sorted(exported) == ["B=x=y", "PATH=/x:/bin"]


def test_a_variable_whose_value_only_docker_knows_is_refused(tiny):
    tiny.recipe.variables = {"PATH": "/x:$PATH"}
    with pytest.raises(MinskyError, match=r"sets PATH=/x:\$PATH in its last stage.*write it out\.$"):
        sif.definition(tiny)


def test_another_definition_is_another_sif(tiny, monkeypatch):
    before = sif.sif_path(tiny)
    monkeypatch.setattr(sif, "definition", lambda _: "another")
    assert sif.sif_path(tiny) != before


def test_the_sif_of_a_cpu_image_is_named_by_image_architecture_and_key(tiny):
    assert re.fullmatch(r"tiny-x86_64-[0-9a-f]{12}\.sif", sif.sif_path(tiny).name)
    cuda = sif.sif_path(replace(tiny, target=Target("x86_64", "cuda"))).name
    assert re.fullmatch(r"tiny-x86_64-cuda-[0-9a-f]{12}\.sif", cuda)


def test_a_build_context_is_readable_by_whoever_unpacks_it():
    with tarfile.open(fileobj=tar_of({"a": b"1", "b": b""})) as context:
        assert {entry.name: entry.mode for entry in context} == {"a": 0o644, "b": 0o644}
