import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from minsky import dockerd
from minsky.errors import MinskyError
from minsky.images import base, build, engine, recipes, sif, strict
from minsky.images.recipes import Target, image


def stages(of):
    first = strict.stage(of, "first")
    first += strict.raw(docker="ARG CHANNEL")
    first += strict.shell(commands=["mkdir /made"])
    first += strict.copy(src="file", dest="/made/file")
    first += strict.shell(commands=["fetch $CHANNEL"])
    last = strict.stage(of, "last")
    last += strict.copy(_from="first", src="/made", dest="/made")
    last += strict.environment(variables={"B": "y"})
    last += strict.user(user="lab")
    return [first, last]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An image of two stages, with a directory and a cache of its own; neither Docker nor Apptainer."""
    monkeypatch.setattr(recipes.Image, "directory", tmp_path / "tiny")
    for module in (base, engine, sif):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "file").write_text("one")
    (tmp_path / "tiny" / "selftest.py").touch()
    targets = {
        name: {"base": "trixie", "needs_gb": 0.1} for name in ("x86_64-cpu", "x86_64-cuda", "ppc64le-cpu")
    }
    recipe = SimpleNamespace(
        TARGETS=targets, stages=stages, arguments=lambda _: {"CHANNEL": "https://default"}
    )
    monkeypatch.setattr(sif.platform, "machine", lambda: "x86_64")
    return recipes.Image("tiny", Target("x86_64", "cpu"), recipe)


@pytest.fixture
def apptainer(tmp_path):
    """A stand-in that writes down its commands and its environment, and does as it is told for `build`."""

    def install(body="touch image.sif"):
        program = tmp_path / "bin" / "apptainer"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$@" >>{tmp_path}/called; env >{tmp_path}/env\n'
            f"case $1 in build) {body};; *) echo fine;; esac\n"
        )
        program.chmod(0o755)
        return tmp_path

    return install


def cached_base(tiny, content):
    path = sif.CACHE / "base" / f"trixie-x86_64-{recipes.base_key(tiny.base, 'x86_64')}.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def sections(text):
    """[("post", "mkdir /made"), ...] of a definition file: its sections line by line."""
    found, section = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("%"):
            section = line[1:]
        elif line and not line.startswith("#"):
            found.append((section, line))
    return found


def test_base_and_bootstrap_are_arguments_of_every_stage_with_dockers_base_as_the_default(tiny):
    text = tiny.definition()
    header = r"^BootStrap: {{ BOOTSTRAP }}\nFrom: {{ BASE }}\nStage: (\w+)$"
    assert re.findall(header, text, re.MULTILINE) == ["first", "last"]
    lines = sections(text)
    assert (
        lines.count(("arguments", "BOOTSTRAP=docker"))
        == lines.count(("arguments", "BASE=debian:trixie-slim"))
        == 2
    )


def test_a_file_is_where_it_belongs_when_docker_would_copy_it_although_apptainer_copies_first(tiny):
    lines = sections(tiny.definition())
    assert ("files", "file /") in lines
    made, moved = lines.index(("post", "mkdir /made")), lines.index(("post", "mv /file /made/file"))
    assert made < moved < lines.index(("post", "fetch $CHANNEL"))


def test_an_argument_of_the_recipe_is_a_variable_as_in_docker(tiny):
    lines = sections(tiny.definition())
    assert ("arguments", "CHANNEL=https://default") in lines
    assert lines.index(("post", "export CHANNEL={{ CHANNEL }}")) < lines.index(("post", "fetch $CHANNEL"))


def test_what_only_docker_understands_is_not_in_a_definition_file_and_leaves_no_gap(tiny):
    text = tiny.definition()
    assert not re.search(r"^(ARG|COPY|FROM|USER|RUN)\b|\$\{BASE\}|\n\n\n", text, re.MULTILINE)
    assert "{{" not in tiny.dockerfile()


def test_a_definition_file_says_what_to_type_and_names_every_file_that_that_takes(tiny):
    text = image("lab", "x86_64-cpu").definition()
    assert re.search(r"cd images/lab\n#   cp /etc/ssl/certs/ca-certificates.crt host-ca.crt ", text)
    assert "apptainer build --ignore-fakeroot-command ~/lab.sif ../rendered/lab-x86_64-cpu.def\n" in text


def test_an_image_that_its_recipe_makes_for_docker_alone_has_no_definition_file_and_no_sif(tiny):
    assert [path.suffix for path in tiny.texts()] == [".Dockerfile", ".def"]
    tiny.recipe.FORMATS = ("docker",)
    assert [path.suffix for path in tiny.texts()] == [".Dockerfile"]
    with pytest.raises(MinskyError, match=r"A SIF of tiny is not made.*python -m minsky\.images build tiny$"):
        sif.ensure_sif(tiny)


def test_without_docker_and_apptainer_it_is_said_what_to_install(tiny):
    with pytest.raises(MinskyError, match=r"no Docker daemon answers and no apptainer.*install Apptainer"):
        sif.ensure_sif(tiny)


def test_a_docker_that_is_not_for_this_user_is_no_obstacle_where_apptainer_is(tiny, apptainer, monkeypatch):
    def refuse():
        raise MinskyError("this user may not write to it")

    monkeypatch.setattr(sif.dockerd, "daemon", refuse)
    with pytest.raises(MinskyError, match="may not write to it"):
        sif.ensure_sif(tiny)
    apptainer()
    assert sif.ensure_sif(tiny).exists()


def test_without_docker_a_sif_is_built_tested_and_found_again(tiny, apptainer):
    place = apptainer()
    path = sif.ensure_sif(tiny)
    assert list((place / "cache" / "sif").iterdir()) == [path]
    assert re.fullmatch(r"tiny-x86_64-[0-9a-f]{12}\.sif", path.name)
    first, second = (place / "called").read_text().splitlines()
    assert "--build-arg=BOOTSTRAP=docker --build-arg=BASE=debian:trixie-slim image.sif image.def" in first
    assert "-comp zstd" in first
    assert second.startswith("--silent exec --contain")
    assert sif.ensure_sif(tiny) == sif.found(tiny) == path
    assert len((place / "called").read_text().splitlines()) == 2


def test_a_build_without_docker_goes_by_the_hosts_proxy_and_dates_no_file_after_the_base(
    tiny, apptainer, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index")
    monkeypatch.setattr(sif, "in_apptainer", lambda *_: (0, ""))
    place = apptainer()
    sif.ensure_sif(tiny)
    told = dict(line.split("=", 1) for line in (place / "env").read_text().splitlines() if "=" in line)
    assert told["APPTAINERENV_http_proxy"] == "http://proxy"
    assert told["APPTAINERENV_PIP_INDEX_URL"] == "http://index"
    assert int(told["SOURCE_DATE_EPOCH"]) % 86400 == 0


def test_a_base_with_a_digest_is_taken_by_that_and_one_in_the_cache_before_all(tiny, tmp_path, monkeypatch):
    pinned = {**tiny.base, "digest": {"x86_64": "sha256:1"}}
    monkeypatch.setattr(recipes.Image, "base", pinned)
    (tmp_path / "a").mkdir()
    assert "--build-arg=BASE=debian@sha256:1" in sif.prepare(tiny, tmp_path / "a")
    cached_base(tiny, build.tar_of({"./etc/os-release": b"x", "./dev/null": b""}).getvalue())
    monkeypatch.setenv("PATH", os.defpath)
    (tmp_path / "b").mkdir()
    command = sif.prepare(tiny, tmp_path / "b")
    assert {"--build-arg=BOOTSTRAP=localimage", "--build-arg=BASE=base"} < set(command)
    assert (tmp_path / "b" / "base" / "etc" / "os-release").exists()
    assert not (tmp_path / "b" / "base" / "dev" / "null").exists()
    assert (tmp_path / "b" / "file").read_text() == "one"


@pytest.fixture
def careful():
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_what_a_careful_user_prepares_is_for_all_users(tiny, tmp_path, monkeypatch, careful):
    cached_base(tiny, build.tar_of({"./etc/os-release": b"x"}).getvalue())
    monkeypatch.setenv("PATH", os.defpath)
    sif.prepare(tiny, tmp_path)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("file", "base/etc/os-release")} == {0o644}


def test_what_a_careful_user_builds_is_for_all_users(tiny, apptainer, tmp_path, careful):
    apptainer(f"umask >{tmp_path}/umask; touch image.sif")
    assert sif.ensure_sif(tiny).stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "umask").read_text() == "0022\n"


def test_what_a_careful_user_converts_is_for_all_users(tmp_path, careful):
    shutil.copy(sif._SCRIPT, tmp_path)
    (tmp_path / "rootfs.tar").write_bytes(build.tar_of({"etc/os-release": b"x"}).getvalue())
    (tmp_path / "apptainer").write_text(
        "#!/bin/sh\nstat -c %a rootfs rootfs/etc/os-release; touch image.sif\n"
    )
    (tmp_path / "apptainer").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.defpath}", "SQUASHFS": ""}
    command = ["sh", sif._SCRIPT.name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["755", "644"]
    assert (tmp_path / "image.sif").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_run_left_goes_and_what_other_targets_are_making_stays(tiny, apptainer):
    place = apptainer() / "cache" / "sif"
    left, others = place / ".unfinished-tiny-x86_64.a", place / ".unfinished-tiny-x86_64-cuda.b"
    for directory in (left, others):
        directory.mkdir(parents=True)
    path = sif.ensure_sif(tiny)
    assert set(place.iterdir()) == {path, others}


def test_without_docker_its_image_is_refused_and_apptainers_file_offered_where_that_is_to_be_had(
    tiny, apptainer
):
    dockerd.client.cache_clear()
    with pytest.raises(MinskyError, match=r"No Docker daemon answers.*same command again\.$"):
        build.ensure(tiny)
    apptainer()
    with pytest.raises(MinskyError, match=r"images build tiny --format sif$"):
        build.ensure(tiny)
    with pytest.raises(MinskyError, match=r"same command again\.$"):
        build.ensure(replace(tiny, target=Target("x86_64", "cpu", layers=("jupyter",))))


def test_a_damaged_base_is_named(tiny, tmp_path, monkeypatch):
    tarball = cached_base(tiny, b"half a tar")
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(
        MinskyError, match=rf"^{tarball}, the base of tiny, cannot be unpacked: .* remove the"
    ):
        sif.prepare(tiny, tmp_path)


def test_a_failed_build_shows_the_step_and_its_last_lines_and_leaves_nothing(tiny, apptainer):
    place = apptainer("echo 'INFO:    Running post scriptlet'; echo '+ fetch it'; echo no such host; exit 3")
    with pytest.raises(MinskyError) as caught:
        sif.ensure_sif(tiny)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Apptainer built no SIF of tiny: it ended with 3."
    assert [line.strip() for line in lines[2:]] == ["step: fetch it", "its last lines:", "no such host"]
    assert list((place / "cache" / "sif").iterdir()) == []


def test_a_sif_that_fails_its_test_is_not_kept(tiny, apptainer, monkeypatch):
    monkeypatch.setattr(sif, "in_apptainer", lambda *_: (1, "2 is not 3"))
    place = apptainer()
    with pytest.raises(MinskyError, match=r"fails its test images/tiny/selftest\.py(.|\n)*2 is not 3"):
        sif.ensure_sif(tiny)
    assert list((place / "cache" / "sif").iterdir()) == []


def test_without_docker_a_foreign_architecture_is_refused_with_where_to_go(tiny, apptainer):
    apptainer()
    with pytest.raises(MinskyError, match="type the same command where `uname -m` says ppc64le"):
        sif.ensure_sif(replace(tiny, target=Target("ppc64le", "cpu")))


def test_a_test_sees_the_gpus_where_there_are_some_and_the_image_is_for_them(
    tiny, apptainer, tmp_path, monkeypatch
):
    place = apptainer()
    for accelerator, gpu in (("cuda", tmp_path), ("cuda", tmp_path / "none"), ("cpu", tmp_path)):
        monkeypatch.setattr(recipes, "GPU", gpu)
        cuda = replace(tiny, target=Target("x86_64", accelerator))
        assert sif.in_apptainer(cuda, "/x.sif", "{}") == (0, "fine")
    called = [shlex.split(line) for line in (place / "called").read_text().splitlines()]
    assert ["--nv" in words for words in called] == [True, False, False]
    assert f"--bind={tiny.selftest}:/mnt/selftest.py:ro" in called[0]
