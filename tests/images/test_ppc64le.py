"""The image for POWER8, built and run here: on such a machine as it is, elsewhere under emulation."""

import os
import platform
import re
import shlex
import subprocess

import pytest

from minsky.images import base, build, emulation, sbom
from minsky.images.engine import docker, member
from minsky.images.recipes import image
from minsky.paths import ROOT

LAB = image("lab", "ppc64le-cpu")
emulated = pytest.mark.skipif(platform.machine() == "ppc64le", reason="this machine is what others emulate")


@pytest.fixture(scope="module")
def tag():
    needed = build.emulate(LAB)
    try:
        base.ensure_base(LAB, needed)
    except base.OutOfStepError as error:
        pytest.skip(f"Debian 13 for ppc64el is not to be had now: {error}")
    return build.ensure(LAB)


def test_two_ranks_agree_and_no_program_uses_what_a_power8_lacks(tag):
    said = build.selftest(LAB, tag)
    assert "mpirun: 2 ranks agree, through numpy" in said
    assert "fit a line to halves of the data" in said
    if platform.machine() != "ppc64le":
        assert re.search(
            r"[2-9]\d\d programs start and [3-9]\d\d libraries load on an emulated power8nvl", said
        ), said


def test_what_runs_is_power(tag):
    said = docker().containers.run(tag, ["uname", "-m"], environment=build.emulate(LAB), remove=True)
    assert said == b"ppc64le\n"
    assert docker().images.get(tag).attrs["Architecture"] == "ppc64le"


def test_the_packages_that_the_later_stages_of_the_gpu_image_install_are_to_be_had(tag):
    later = re.split(r"^FROM ", (ROOT / "Dockerfile.ppc64le").read_text(), flags=re.MULTILINE)[2:]
    lists = re.findall(r"apt-get install -y --no-install-recommends (.*?) &&", " ".join(later), re.DOTALL)
    packages = sorted(set(" ".join(lists).replace("\\\n", " ").split()))
    assert {"curl", "ibverbs-providers"} <= set(packages)
    install = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
    docker().containers.run(
        tag,
        ["sh", "-ec", f"apt-get update; {shlex.join(install)}"],
        user="root",
        environment={**build.emulate(LAB), **build.fetching()},
        labels={"minsky": "1"},
        remove=True,
    )


@emulated
def test_the_emulated_processor_has_power8s_instructions_and_not_power9s(tag):
    assert emulation.faithful("power8nvl")
    assert not emulation.faithful("power9")  # which has `darn`, and would prove nothing


@emulated
def test_the_dockerfile_at_the_top_builds_up_to_its_stage_mpi_as_the_readme_says(tag):
    below = base.ensure_base(LAB, build.emulate(LAB))
    built = subprocess.run(
        ["docker", "build", "--quiet", "--file", "Dockerfile.ppc64le", "--target", "mpi",
         "--build-arg", f"BASE={below}", "--build-arg", "QEMU_CPU=power8nvl", "."],
        cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"DOCKER_BUILDKIT": "0"},
    ).stdout.strip()  # fmt: skip
    one, other = (member(docker(), image, f"/{sbom.STATUS}") for image in (built, tag))
    assert one == other
