"""Pushing, to a real registry: Debian's, unpacked and started for these tests."""

import shutil
import socket
import subprocess
import time

import pytest

from minsky.errors import MinskyError
from minsky.images import build
from minsky.images.engine import docker
from minsky.images.push import push
from minsky.images.recipes import image

CONFIGURATION = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """`127.0.0.1:PORT` of a registry that is empty."""
    if not shutil.which("apt-get"):
        pytest.skip("a registry is Debian's package docker-registry, and there is no apt-get here")
    place = tmp_path_factory.mktemp("registry")
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    subprocess.run(["apt-get", "-qq", "download", "docker-registry"], cwd=place, check=True)
    subprocess.run(["dpkg", "-x", next(place.glob("*.deb")), place], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "config.yml").write_text(CONFIGURATION.format(root=place / "data", port=port))
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [place / "usr/bin/docker-registry", "serve", place / "config.yml"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < deadline, (place / "log").read_text()  # noqa: PT018
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def test_what_was_pushed_comes_back_by_its_digest(registry):
    wanted = image("qemu")
    reference = push(wanted, f"{registry}/hpc/qemu")
    assert reference.startswith(f"{registry}/hpc/qemu@sha256:")
    pulled = docker().images.pull(reference)
    assert pulled.id == docker().images.get(build.ensure(wanted)).id
    docker().images.remove(reference)


def test_a_registry_that_does_not_answer_is_a_sentence():
    with pytest.raises(
        MinskyError, match=r"was not pushed to 127\.0\.0\.1:9/x:.*docker login 127\.0\.0\.1:9"
    ):
        push(image("qemu"), "127.0.0.1:9/x")


def test_a_name_that_is_none_is_a_sentence():
    with pytest.raises(MinskyError, match="was not pushed to Not A Name"):
        push(image("qemu"), "Not A Name")
