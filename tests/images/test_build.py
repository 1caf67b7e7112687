"""Building, on a small image of two stages: what it keeps for the next build, and what it lets out."""

import platform
from types import SimpleNamespace

import pytest

from minsky.images import build, recipes, sbom, strict
from minsky.images.engine import docker
from minsky.images.recipes import CA_BUNDLE, image

HERE = f"{platform.machine()}-cpu"
STAGE = f"minsky/stage:tiny-{HERE}-first"
CANARY = "xyzzy-canary"


def stages(of):
    first = strict.stage(of, "first")
    first += strict.copy(src=CA_BUNDLE, dest="/root/host-ca.crt")
    first += strict.raw(docker="ARG PIP_INDEX_URL")
    first += strict.shell(commands=["env >/root/environment", "echo made >/made"])
    last = strict.stage(of, "last")
    last += strict.copy(_from="first", src="/made", dest="/made")
    last += strict.shell(commands=of.recipe.last)
    return [first, last]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    base = image("lab", HERE).recipe.TARGETS[HERE]["base"]
    recipe = SimpleNamespace(
        TARGETS={HERE: {"base": base, "needs_gb": 1}},
        UNTESTED="it has no Python",
        stages=stages,
        last=["echo one >/last"],
    )
    monkeypatch.setattr(recipes.Image, "directory", tmp_path)
    monkeypatch.setattr(sbom, "CACHE", tmp_path)
    made = recipes.Image("tiny", recipes.Target(*HERE.split("-")), recipe)
    yield made
    for tag in (made.tag, STAGE):
        if docker().images.list(tag):
            docker().images.remove(tag)
    docker().images.prune({"dangling": True, "label": build._labels(made)})


def test_a_change_of_the_last_stage_builds_that_alone(tiny, monkeypatch):
    before = build.ensure(tiny)
    first = docker().images.get(STAGE).id
    monkeypatch.setattr(tiny.recipe, "last", ["echo two >/last"])
    assert build.ensure(tiny) != before
    assert docker().images.get(STAGE).id == first
    assert not docker().images.list(before)


def test_what_a_build_needs_of_its_host_stays_in_no_layer(tiny, in_layers, monkeypatch):
    """A proxy and a package index with passwords in them, and the host's certificates."""
    for name in ("http_proxy", "https_proxy"):
        for variable in (name, name.upper()):
            monkeypatch.setenv(variable, f"http://user:{CANARY}@127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", f"https://user:{CANARY}@example.invalid/simple")
    tag, certificates = build.ensure(tiny), build._ca_bundle().read_bytes()

    def holders(tag):
        return {path for path, data in in_layers(tag) if CANARY.encode() in data or certificates in data}

    assert holders(STAGE) == {"root/environment", "root/host-ca.crt"}  # they were there
    assert holders(tag) == set()
    found = docker().images.get(tag)
    assert CANARY not in f"{found.history()} {found.attrs}"
