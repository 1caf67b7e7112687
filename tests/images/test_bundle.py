"""Bundles, recorded and built from with the network cut: of a small image; of the lab's in test_long.py."""

import json
import platform
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from minsky.errors import MinskyError
from minsky.images import base, build, bundle, recipes, sbom, strict
from minsky.images.engine import docker

EXPIRED = """echo 'Acquire::Max-ValidTime "1";' >/etc/apt/apt.conf.d/expired"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """An image that needs one package of Debian's."""
    directory = tmp_path_factory.mktemp("images")
    (directory / "tiny").mkdir()

    def stages(of):
        made = strict.stage(of, "tiny")
        made += strict.shell(commands=of.recipe.first)
        made += strict.apt_get(ospackages=["tree"])
        return [made]

    arch = platform.machine()
    recipe = SimpleNamespace(
        TARGETS={f"{arch}-cpu": {"base": "trixie", "needs_gb": 1}},
        UNTESTED="it has no Python",
        stages=stages,
        first=["true"],
    )
    recipes.pins()  # the checkout's: they are read once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "IMAGES", directory)
        patch.setattr(sbom, "CACHE", directory)
        made = recipes.Image("tiny", recipes.Target(arch, "cpu"), recipe)
        yield made
        docker().images.prune({"dangling": True, "label": build._labels(made)})  # of builds that failed


def remove(tag):
    if docker().images.list(tag):
        docker().images.remove(tag)


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("bundles") / "tiny"
    bundle.record(tiny, directory)
    yield directory
    remove(tiny.tag)


@pytest.fixture
def copy(recorded, tmp_path):
    """A bundle to spoil: the directory, its manifest, and what writes that."""
    shutil.copytree(recorded, tmp_path / "copy")
    path = tmp_path / "copy" / "manifest.json"
    manifest = json.loads(path.read_text())
    return tmp_path / "copy", manifest, lambda: path.write_text(json.dumps(manifest))


def networks():
    return [n.name for n in docker().networks.list() if n.name.startswith("minsky-bundle-tiny")]


def test_an_image_is_built_from_its_bundle_and_keeps_no_trace_of_how(tiny, recorded):
    remove(tiny.tag)
    assert bundle.ensure(tiny, recorded) == tiny.tag
    assert re.search(r"^tree \d", build.packages(tiny), re.MULTILINE)
    told = json.dumps([docker().api.history(tiny.tag), docker().api.inspect_image(tiny.tag)])
    assert not re.findall(r"(?i)[a-z]+_proxy|pip_\w+", told)
    assert networks() == []


def test_an_image_that_is_there_needs_no_bundle(tiny, recorded, tmp_path):
    assert bundle.ensure(tiny, tmp_path / "none") == tiny.tag


def test_a_base_that_docker_lacks_comes_from_the_bundle(tiny, copy):
    directory, manifest, write = copy
    (name,) = (name for name in manifest["files"] if name.startswith("images/"))
    below = base.ensure_base(tiny, {})
    assert name == f"images/{below}.tar"
    docker().images.get(below).tag("minsky/spare", "test")
    bundle._save("minsky/spare:test", directory, manifest["files"])
    write()
    remove("minsky/spare:test")
    remove(tiny.tag)
    bundle.ensure(tiny, directory)
    try:
        assert docker().images.get("minsky/spare:test").id == docker().images.get(below).id
    finally:
        remove("minsky/spare:test")


def test_a_bundle_older_than_its_indices_say_they_are_valid_still_builds(tiny, copy, monkeypatch):
    directory, manifest, write = copy
    monkeypatch.setattr(tiny.recipe, "first", [EXPIRED])
    with pytest.raises(MinskyError, match="is expired"):
        build.ensure(tiny)
    manifest["made_for"] = bundle._made_for(tiny)
    write()
    try:
        assert bundle.ensure(tiny, directory) == tiny.tag
    finally:
        remove(tiny.tag)


def test_what_a_bundle_lacks_ends_the_build_with_its_url(tiny, copy):
    directory, manifest, write = copy
    (package,) = (name for name in manifest["files"] if "/tree_" in name)
    del manifest["files"][package]
    write()
    remove(tiny.tag)
    url = package.replace("http/", "http://")
    with pytest.raises(
        MinskyError,
        match=rf"(?s)then type the same command again.*asked for in vain:\n    {url}: not in the bundle",
    ):
        bundle.ensure(tiny, directory)
    assert networks() == []


def test_a_damaged_bundle_builds_nothing(tiny, copy):
    directory, manifest, _ = copy
    (package,) = (name for name in manifest["files"] if "/tree_" in name)
    (directory / package).write_bytes(b"altered")
    remove(tiny.tag)
    with pytest.raises(MinskyError, match=r"tree_\S+ is not what was recorded"):
        bundle.ensure(tiny, directory)


def test_from_the_network_of_a_build_the_mirror_is_not_to_be_reached(tiny):
    below = base.ensure_base(tiny, {})
    sources = docker().containers.run(below, ["cat", "/etc/apt/sources.list"], remove=True).decode()
    mirror = socket.gethostbyname(re.search(r"http://([\w.-]+)", sources)[1])
    connect = ["timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{mirror}/80"]

    def status(network):
        container = docker().containers.create(below, connect, network=network, labels={"minsky": "1"})
        try:
            container.start()
            return container.wait()["StatusCode"]
        finally:
            container.remove(force=True)

    if status("bridge"):
        pytest.skip(f"{mirror} is reached through a proxy alone, so its silence would prove nothing")
    with bundle.network(tiny) as (network, _):
        assert status(network) != 0


def test_pip_gets_from_a_bundle_what_it_got_from_its_index(tiny, tmp_path):
    arguments = bundle.redirected(tiny, bundle.python_index())
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "six==1.17.0",
    ]
    command += ["--index-url", arguments["PIP_INDEX_URL"], "--trusted-host", arguments["PIP_TRUSTED_HOST"]]
    files, got = {}, []
    for recording in (True, False):
        with bundle.Server("127.0.0.1", tmp_path / "bundle", files, recording=recording) as proxy:
            (tmp_path / "bundle").mkdir(exist_ok=True)
            done = subprocess.run(
                [*command, "--dest", tmp_path / str(recording)],
                env={"http_proxy": proxy.url, "https_proxy": proxy.url},
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        got.append({path.name: path.read_bytes() for path in (tmp_path / str(recording)).iterdir()})
    assert list(got[0]) == ["six-1.17.0-py2.py3-none-any.whl"]
    assert got[0] == got[1]
