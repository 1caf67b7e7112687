"""What takes many minutes: the GPU image, builds without a network, the same image twice. `make test-all`."""

import hashlib
import tarfile
import tempfile
import time
from fnmatch import fnmatch

import pytest

from minsky.images import base, build, bundle, sbom
from minsky.images.engine import docker
from minsky.images.recipes import image

pytestmark = pytest.mark.long
MAY_DIFFER = {
    "opt/lab/*/horovod/*.so": "its compiler is told paths of a temporary directory",
    "opt/lab/*.pyc": "Python's bytecode depends on what the same process has compiled before",
    "var/log/*": "times of installation",
    "var/cache/ldconfig/aux-cache": "times and inodes of libraries",
}


def test_horovod_of_the_gpu_image_is_linked_with_nccl_and_runs_without_a_gpu_on_the_cpu():
    wanted = image("lab", "x86_64-cuda")
    said = build.selftest(wanted, build.ensure(wanted))
    assert "horovodrun --check-build: TensorFlow, MPI, Gloo, NCCL" in said
    assert "programs and libraries find all that they name" in said
    assert "GPU" in said


def test_optional_layers_work_and_leave_what_is_below_them_as_it_is():
    wanted = image("lab", "x86_64-cpu")
    more = wanted.with_layers("jupyter", "opencv")
    said = build.selftest(more, build.ensure(more))
    assert "layer jupyter: " in said
    assert "layer opencv: " in said
    below, above = (docker().images.get(build.ensure(i)).attrs["RootFS"]["Layers"] for i in (wanted, more))
    assert above[: len(below)] == below


def test_two_builds_of_the_same_pins_hold_the_same_packages_and_nearly_the_same_files():
    wanted = image("lab", "x86_64-cpu")
    first = build.ensure(wanted)
    second = build._stream(wanted, {"BASE": base.ensure_base(wanted, {})}, time.monotonic(), nocache=True)
    try:
        (listed, one), (listed_again, other) = look_into(wanted, first), look_into(wanted, second)
    finally:
        docker().images.remove(second)
    assert listed == listed_again
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    print(*differ, sep="\n")
    assert not [name for name in differ if not any(fnmatch(name, pattern) for pattern in MAY_DIFFER)]


@pytest.mark.parametrize("target", ["x86_64-cpu", "ppc64le-cpu"])
def test_the_lab_and_its_base_are_built_from_a_bundle(target, tmp_path):
    lab = image("lab", target)
    bundle.record(lab, tmp_path / "lab")
    listed = build.packages(lab)
    for tag in (lab.tag, base.ensure_base(lab, {})):
        docker().images.remove(tag, force=True)
    assert bundle.ensure(lab, tmp_path / "lab") == lab.tag
    assert build.packages(lab) == listed


def look_into(wanted, tag: str) -> tuple[str, dict[str, str]]:
    """The bill of materials of the image, and the SHA-256 of each file by its path."""
    container = docker().containers.create(tag, "true", labels={"minsky": "1"})
    try:
        with tempfile.TemporaryFile() as file:
            for chunk in container.export(chunk_size=8 << 20):
                file.write(chunk)
            file.seek(0)
            listed = sbom.document(wanted, file)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                return listed, {
                    member.name: hashlib.file_digest(archive.extractfile(member), "sha256").hexdigest()
                    for member in archive
                    if member.isfile()
                }
    finally:
        container.remove(force=True)
