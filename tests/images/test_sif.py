"""Apptainer's files: an image's own test in them, equal ones of equal images, and building without Docker."""

import json
import platform
import shlex
import struct
from types import SimpleNamespace

import pytest

from minsky.images import build, recipes, sif, strict
from minsky.images.base import ensure_base
from minsky.images.engine import docker
from minsky.images.recipes import Target, image

HERE = f"{platform.machine()}-cpu"
long = pytest.mark.long
LARGEST_MB = 600


def stages(of):
    """What a user's build may stumble over: packages, another's group, files in Docker's order."""
    first = strict.stage(of, "first")
    first += strict.apt_get(ospackages=["hello"])
    first += strict.shell(commands=["mkdir /opt/tiny", "cp /usr/bin/hello /opt/tiny"])
    first += strict.copy(src="file", dest="/opt/tiny/file")
    first += strict.shell(commands=["chgrp mail /opt/tiny/file"])
    last = strict.stage(of, "last")
    last += strict.copy(_from="first", src="/opt/tiny", dest="/opt/tiny")
    last += strict.environment(variables={"PATH": "/opt/tiny:/usr/bin:/bin", "GREETING": "hi"})
    return [first, last]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small image on the lab's base, in a directory of its own."""
    base = image("lab", HERE).recipe.TARGETS[HERE]["base"]
    recipe = SimpleNamespace(TARGETS={HERE: {"base": base, "needs_gb": 1}}, stages=stages)
    monkeypatch.setattr(recipes.Image, "directory", tmp_path)
    (tmp_path / "file").write_text("a word\n")
    return recipes.Image("tiny", Target(*HERE.split("-")), recipe)


@pytest.fixture
def tool():
    return build.ensure(image("apptainer"))


def as_ordinary_user(tool, script, scratch, *, ids):
    """Exit status and output of *script*, run in a copy of *scratch* by a user of a machine without Docker.

    Of the user ids that a package may ask for, `one` is the user's, or `many`, by a range in /etc/subuid.
    """
    root = ["useradd --create-home pupil", "cp -r /scratch ~pupil", "chown -R pupil: ~pupil"]
    root += ["[ ! -e /dev/fuse ] || chmod 666 /dev/fuse"]
    # Docker hides parts of /proc, and who does not see all of it may mount no other
    root += ["mount -t proc proc /proc"] if ids == "many" else [": >/etc/subuid", ": >/etc/subgid"]
    container = docker().containers.create(
        tool,
        ["sh", "-ec", "; ".join([*root, 'exec su pupil -c "cd ~/scratch && $0"']), script],
        volumes={str(scratch): {"bind": "/scratch", "mode": "ro"}},
        environment=build.fetching(),
        devices=["/dev/fuse"] if sif.FUSE.exists() else [],
        cap_add=["SYS_ADMIN"] if ids == "many" else [],  # which newuidmap needs, too
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        labels={"minsky": "1"},
    )
    try:
        container.start()
        return container.wait()["StatusCode"], container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("ids", ["one", "many"])
def test_an_ordinary_user_builds_a_definition_file_where_there_is_no_docker(tool, tiny, tmp_path, ids):
    (scratch := tmp_path / "scratch").mkdir()
    look = "apptainer --silent exec image.sif sh -c 'id -u; hello; cat /opt/tiny/file; echo $GREETING'"
    script = f"{shlex.join(sif.prepare(tiny, scratch))} && {look}"
    status, said = as_ordinary_user(tool, script, scratch, ids=ids)
    assert status == 0, said
    assert said.splitlines()[-4:] == ["1000", "Hello, world!", "a word", "hi"]
    assert ("fakeroot sh -ex" in said) == (ids == "one")


@long
@pytest.mark.parametrize("ids", ["one", "many"])
def test_an_ordinary_user_builds_the_lab_where_there_is_no_docker(tool, tmp_path, ids):
    lab = image("lab", HERE)
    (scratch := tmp_path / "scratch").mkdir()
    (scratch / "selftest.py").write_bytes(lab.selftest.read_bytes())
    commands = [
        sif.prepare(lab, scratch),
        sif.start("image.sif", "selftest.py", json.dumps(lab.expected)),
    ]
    status, said = as_ordinary_user(tool, " && ".join(map(shlex.join, commands)), scratch, ids=ids)
    assert status == 0, said[-3000:]
    assert "mpirun: 2 ranks agree, through horovod" in said


@long  # the cluster's tests run every lab in the first of these
@pytest.mark.parametrize("target", [HERE, "ppc64le-cpu"])
def test_the_lab_passes_its_own_test_as_a_sif(target):
    lab = image("lab", target)
    path = sif.ensure_sif(lab)
    assert "mpirun: 2 ranks agree" in build.selftest(lab, str(path), sif.in_apptainer)
    assert path.stat().st_size <= LARGEST_MB * 1e6


def test_two_sifs_of_one_image_differ_in_nothing_but_their_names_and_dates(tiny, tmp_path):
    made = []
    for name in ("one", "two"):
        (scratch := tmp_path / name).mkdir()
        sif._convert(tiny, ensure_base(tiny, {}), scratch)
        made.append((scratch / "image.sif").read_bytes())
    (data,) = struct.unpack_from("<q", made[0], 112)  # where the header says that they begin
    assert made[0][data:] == made[1][data:]
