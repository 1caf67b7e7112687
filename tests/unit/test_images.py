import platform
import re
import subprocess
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hpccm
import pytest
from docker.errors import ImageNotFound

from minsky.errors import MinskyError
from minsky.images import __main__ as command
from minsky.images import base, build, emulation, engine, recipes, sif, strict
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
    [("lab", "x86_64", 22), ("node", "x86_64", 24), ("lab", "ppc64le", 24)],
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
    typed = r"`--arch x86_64`, `--arch x86_64 --variant keras2`, .*`--arch ppc64le --accelerator cuda`\.$"
    with pytest.raises(MinskyError, match=rf"no target 'vax-cpu'; type one of {typed}"):
        image("lab", "vax-cpu")


def test_the_key_is_the_same_for_the_same_content():
    assert image("lab").key == image("lab").key
    assert len(image("lab").key) == 12


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An image in a directory of its own: one file, one line."""
    recipes.pins()  # the checkout's: they are read once
    monkeypatch.setattr(recipes, "IMAGES", tmp_path)
    monkeypatch.setattr(recipes, "ROOT", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "file").write_text("one")

    def stages(of):
        first = strict.stage(of, "first")
        first += strict.environment(variables={"ONLY_IN": "first"})
        made = strict.stage(of, "tiny")
        made += strict.copy(src="host-ca.crt", dest="/ca")
        made += strict.copy(src=of.recipe.file, dest="/file")
        made += strict.environment(variables=of.recipe.variables)
        return [first, made]

    variables = {"PATH": "/x:/bin", "B": "x=y"}
    bases = {key: {"base": "trixie", "needs_gb": 10} for key in ("x86_64-cpu", "x86_64-cuda", "ppc64le-cpu")}
    recipe = SimpleNamespace(TARGETS=bases, stages=stages, variables=variables, file="file")
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


def test_python_packages_without_a_lock_or_a_hash_are_refused_before_a_build_begins(tiny):
    path = tiny.directory / "requirements-x86_64-cpu.txt"
    good = f"numpy==2.0.2 \\\n    --hash=sha256:{'0' * 64}\n"
    tiny.recipe.file = path.name
    with pytest.raises(MinskyError, match=r"cpu\.txt is missing.*: type: python -m minsky.images lock tiny$"):
        _ = tiny.key
    path.write_text("# a comment\n" + good)
    assert list(tiny.context) == [path.name]
    path.write_text(good + "six==1.17.0\n" + good)
    with pytest.raises(MinskyError, match=r"cpu\.txt has no hash for six, .*type: python .* lock tiny$"):
        _ = tiny.key


def test_what_to_type_names_what_is_not_the_default_here():
    lab = image("lab", "x86_64-cpu-keras2").with_layers("opencv", "jupyter")
    arch = "" if platform.machine() == "x86_64" else "--arch x86_64 "
    typed = f"python -m minsky.images build lab {arch}--variant keras2 --with jupyter,opencv"
    assert lab.command("build") == typed
    assert lab.command("lock") == "python -m minsky.images lock lab"
    other = replace(image("lab", "ppc64le-cuda"), target=Target("vax", "cuda")).command("test")
    assert other == "python -m minsky.images test lab --arch vax --accelerator cuda"


def test_a_build_argument_changes_default_text_key_and_what_to_type_and_nothing_else():
    lab = image("lab", "ppc64le-cuda")
    other = lab.with_arguments({"CUDA": "12.2"})
    assert other.dockerfile() == lab.dockerfile().replace("ARG CUDA=11.8\n", "ARG CUDA=12.2\n")
    assert other.definition() == lab.definition().replace("    CUDA=11.8\n", "    CUDA=12.2\n")
    assert other.key != lab.key
    assert other.command("build").endswith(" --accelerator cuda --build-arg CUDA=12.2")
    assert lab.with_arguments({}) == lab


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        ("ppc64le-cuda", {"BASE": "x"}, r"argument 'BASE'; .* given are CHANNEL, CONDA_FORGE, CUDA, ARCH\.$"),
        ("x86_64-cpu", {"CUDA": "12.2"}, r"x86_64-cpu takes no build argument 'CUDA'; none may be given\.$"),
        ("ppc64le-cuda", {"CUDA": ""}, r"^'' is no value .* as --build-arg CUDA=11\.8$"),
        ("ppc64le-cuda", {"CUDA": "12.2\nRUN x"}, r"is no value of the build argument CUDA"),
    ],
)
def test_a_build_argument_that_the_image_does_not_have_is_refused(target, given, said):
    with pytest.raises(MinskyError, match=said):
        image("lab", target).with_arguments(given)


def test_options_are_taken_as_they_are_typed():
    options = {"name": "lab", "accelerator": "cpu", "variant": "", "arguments": []}
    typed = SimpleNamespace(arch="x86_64", layers="opencv, jupyter,", **options)
    assert command._image(typed).target.layers == ("jupyter", "opencv")
    options |= {"accelerator": "cuda", "arguments": ["CUDA=12.2", "CHANNEL=http://a/?b=c"]}
    typed = SimpleNamespace(arch="ppc64le", layers="", **options)
    assert command._image(typed).overrides == (("CHANNEL", "http://a/?b=c"), ("CUDA", "12.2"))


def test_a_test_is_told_of_the_packages_inside_and_of_a_gpu_only_where_both_are(monkeypatch, tmp_path):
    cuda = image("lab", "x86_64-cuda")
    assert cuda.expected["debian"].keys() == {"libopenmpi3", "openmpi-bin", "python3"}
    assert cuda.with_layers("jupyter").plain.expected == cuda.expected
    assert "python3-torch" in image("lab", "ppc64le-cpu").with_layers("pytorch").expected["debian"]
    monkeypatch.setattr(recipes, "GPU", tmp_path / "nvidiactl")
    assert cuda.expected["gpu"] is False
    recipes.GPU.touch()
    assert cuda.expected["gpu"] is True
    assert image("lab").expected["gpu"] is False


def test_locking_an_image_without_python_packages_says_so(capsys):
    command._lock(SimpleNamespace(name="node"))
    assert capsys.readouterr().out.startswith("Image node pins no Python packages")


def test_a_list_in_a_pipe_has_whole_keys_and_of_optional_layers_what_is_built(monkeypatch, capsys):
    layered = image("lab", "x86_64-cpu").with_layers("jupyter", "opencv")

    def get(tag):
        if tag != layered.tag:
            raise ImageNotFound(tag)
        return SimpleNamespace(attrs={"Size": 2e9})

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(command, "docker", lambda: SimpleNamespace(images=SimpleNamespace(get=get)))
    monkeypatch.setattr(command.sif, "found", lambda _: None)
    command._list(SimpleNamespace())
    listed = capsys.readouterr().out
    plain = [found.tag for several in recipes.catalogue().values() for found in several]
    assert [tag for tag in re.findall(r"minsky/\S+", listed) if tag != layered.tag] == plain
    assert re.search(rf"x86_64-cpu\+jupyter\+opencv .* {layered.tag} +2000 MB", listed)


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
    command._render(SimpleNamespace(name="tiny"))
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
    assert [gb for _, gb, _ in sif.needs(tiny)] == [10, 0.5, 4]
    sif.sif_path(tiny).touch()
    assert sif.needs(tiny) == []


def test_an_image_that_docker_has_needs_no_room(tiny, cache, monkeypatch):
    daemon = SimpleNamespace(images=SimpleNamespace(list=lambda name: [name]))
    monkeypatch.setattr(build.dockerd, "daemon", lambda: daemon)
    assert build.needs(tiny) == []
    assert [gb for _, gb, _ in sif.needs(tiny)] == [4]


def test_a_failed_build_shows_the_step_its_last_lines_and_what_to_type(tiny, monkeypatch, tmp_path):
    said = [{"stream": "Step 2/2 : RUN false\n"}, {"stream": "no\n"}, {"error": "returned 1"}]
    api = SimpleNamespace(build=lambda **_: iter(said))
    monkeypatch.setattr(build, "docker", lambda: SimpleNamespace(api=api))
    monkeypatch.setattr(build, "_ca_bundle", lambda: tiny.directory / "file")
    with pytest.raises(MinskyError) as caught:
        build._stream(tiny, {"BASE": "base"}, 0)
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


def test_a_machines_own_architecture_is_not_emulated_and_a_foreign_one_as_the_oldest_that_is_meant():
    assert emulation.environment(platform.machine(), "power8nvl") == {}
    assert image("lab", "ppc64le-cpu").architecture["emulated_cpu"] == "power8nvl"


def test_an_architecture_that_nothing_emulates_is_refused_with_where_to_go():
    with pytest.raises(MinskyError, match=r"only ppc64le is emulated: type the same .* `uname -m` says vax"):
        emulation.environment("vax", "any")


@pytest.mark.parametrize("missing", ["root", "binfmt_misc"])
def test_without_root_or_binfmt_misc_emulation_is_refused_with_what_to_type(missing, tmp_path, monkeypatch):
    monkeypatch.setattr(emulation.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulation, "BINFMT", tmp_path)
    monkeypatch.setattr(emulation, "_qemu", lambda _: tmp_path / "qemu")
    monkeypatch.setattr(emulation.system, "as_root", lambda: None if missing == "root" else ["false"])
    if missing == "root":
        (tmp_path / "register").touch()
    with pytest.raises(MinskyError, match=r"ppc64le do not run on this x86_64 .*root"):
        emulation.environment("ppc64le", "power8nvl")


def test_a_handler_that_runs_power9s_instructions_or_not_power8s_is_not_believed(monkeypatch):
    outcomes = {emulation.MFFSL: 0, emulation.DARN: -4}
    monkeypatch.setattr(emulation, "_run", lambda _, instruction: outcomes[instruction])
    assert emulation.faithful("power8nvl")
    outcomes[emulation.DARN] = 0  # plain qemu
    assert not emulation.faithful("power8nvl")
    outcomes |= {emulation.DARN: -4, emulation.MFFSL: -4}  # qemu 7.2 as a POWER8
    assert not emulation.faithful("power8nvl")


def test_emulation_is_taken_back_and_what_others_have_registered_stays(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(emulation, "CACHE", cache)
    monkeypatch.setattr(emulation, "BINFMT", tmp_path)
    monkeypatch.setattr(emulation.system, "as_root", list)
    for name in ("minsky-ppc64le", "qemu-ppc64le"):
        (tmp_path / name).write_text("enabled")
    emulation.remove()
    assert (tmp_path / "minsky-ppc64le").read_text() == "-1"  # to the kernel: remove this one
    assert (tmp_path / "qemu-ppc64le").read_text() == "enabled"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror that lacks a file its index names, until a source so called is asked; what was asked."""
    monkeypatch.setattr(base, "CACHE", tmp_path)
    monkeypatch.setattr(base, "require_mmdebstrap", lambda: None)
    monkeypatch.setattr(base, "mirrors", lambda suite: [f"deb http://mirror {suite} main", "deb updates"])
    asked = []

    def lacks(whole):
        def run(command, environment):
            asked.append(command[-1])
            if whole and f" {whole} " in command[-1]:
                Path(command[command.index("trixie") + 1]).write_bytes(b"tar")
                return subprocess.CompletedProcess(command, 0, "", "")
            said = "E: Failed to fetch http://mirror/pool/zlib1g_ppc64el.deb  404  Not Found [IP: 192.0.2.1]"
            return subprocess.CompletedProcess(command, 25, "", said)

        monkeypatch.setattr(base, "_run", run)
        return asked

    return lacks


def test_a_base_comes_from_the_suites_other_name_where_the_mirror_lacks_what_the_first_names(mirror):
    asked = mirror("stable")
    assert base.bootstrap(image("lab", "ppc64le-cpu"), {}).read_bytes() == b"tar"
    assert asked == ["deb updates", "deb http://mirror trixie main", "deb http://mirror stable main"]


def test_a_mirror_between_two_states_is_told_by_the_file_that_it_lacks(mirror):
    mirror(None)
    with pytest.raises(base.OutOfStepError, match=r"for ppc64le.*zlib1g_ppc64el.deb  404.*some hours"):
        base.bootstrap(image("lab", "ppc64le-cpu"), {})
