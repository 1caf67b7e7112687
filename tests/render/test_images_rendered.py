"""What is committed under images/ is what recipes and pins say; no Docker needed."""

import re

import pytest

from minsky.images import recipes
from minsky.paths import ROOT

IMAGES = [image for images in recipes.catalogue().values() for image in images]
every_image = pytest.mark.parametrize("image", IMAGES, ids=lambda i: f"{i.name}-{i.target}")


@every_image
def test_the_committed_dockerfile_is_what_the_recipe_renders(image):
    assert image.rendered.read_text() == image.dockerfile(), (
        f"{image.rendered.relative_to(ROOT)} is stale or was edited: run `python -m minsky.images render`"
    )


def test_nothing_is_committed_as_rendered_that_no_recipe_makes():
    made = {path for image in IMAGES for path in (image.rendered, image.packages)}
    assert set(recipes.RENDERED.iterdir()) <= made


@every_image
def test_an_image_has_a_test_of_its_own_or_says_why_not_and_never_both(image):
    assert bool(image.selftest) != hasattr(image.recipe, "UNTESTED")


@every_image
def test_no_recipe_names_a_version_itself(image):
    text = (image.directory / "recipe.py").read_text()
    assert not re.findall(r"\b\d+\.\d+", text), "a pin belongs in images/versions.toml"


@every_image
def test_the_committed_package_list_covers_the_declared_packages(image):
    resolved = dict(line.split() for line in image.packages.read_text().splitlines())
    for package, pin in recipes.pins()["image"][image.name]["debian"].items():
        assert package in resolved, f"{package} is declared in versions.toml and not in {image.packages.name}"
        assert _numbers(resolved[package]) >= _numbers(pin["least"]), (
            f"{package} {resolved[package]} is too old"
        )


def _numbers(version):
    """`1:10.0p1-7` as (1, 10, 0, 1, 7): enough to compare with a least version that states its epoch."""
    epoch, _, rest = version.rpartition(":")
    return [int(epoch or 0), *map(int, re.findall(r"\d+", rest))]


@every_image
def test_each_declared_debian_package_comes_from_the_suite_of_its_base_or_a_named_one(image):
    text = image.dockerfile()
    for package, pin in recipes.pins()["image"][image.name]["debian"].items():
        assert pin["suite"] in (image.base["suite"], *text.split()), (
            f"{package}: {pin['suite']} is in no stage"
        )


@every_image
def test_the_python_locks_hold_the_pinned_versions_and_a_hash_for_every_package(image):
    locked = {}
    for form, suffix in (("wheel", ".txt"), ("source", ".source.txt")):
        if any(pin["form"] == form for pin in image.python.values()):
            text = (image.directory / f"requirements-{image.target}{suffix}").read_text()
            for block in re.findall(r"^[\w.-]+==.*(?:\n .*)*", text, re.MULTILINE):
                assert "--hash=sha256:" in block, block
                name, version = re.match(r"([\w.-]+)==([^ ;\\]+)", block).groups()
                locked[name] = (version, form)
    for name, pin in image.python.items():
        assert locked[name] == (pin["version"], pin["form"]), (
            f"run `python -m minsky.images lock {image.name}`"
        )


def test_every_pin_says_why():
    def tables(tree):
        if isinstance(tree, dict):
            if {"version", "least", "suite"} & tree.keys():
                yield tree
            for value in tree.values():
                yield from tables(value)

    for pin in tables({k: v for k, v in recipes.pins().items() if k != "data"}):
        assert pin.get("why"), pin


@every_image
def test_the_readme_shows_the_image(image):
    rows = (recipes.IMAGES / "README.md").read_text().splitlines()
    assert any(
        row.startswith(f"| `{image.name}` | {image.target.arch} | {image.target.accelerator} |")
        for row in rows
    )
