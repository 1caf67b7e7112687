"""What is committed under images/ is what recipes and pins say; no Docker needed."""

import re

import pytest

from minsky.images import recipes
from minsky.paths import ROOT

IMAGES = [image for images in recipes.catalogue().values() for image in images]
every_image = pytest.mark.parametrize("image", IMAGES, ids=lambda i: f"{i.name}-{i.target}")


@every_image
def test_what_is_committed_is_what_the_recipe_renders(image):
    for path, text in image.texts().items():
        assert path.read_text() == text, (
            f"{path.relative_to(ROOT)} is stale or was edited: run `python -m minsky.images render`"
        )


def test_nothing_is_committed_as_rendered_that_no_recipe_makes():
    made = {path for image in IMAGES for path in (*image.texts(), image.packages)}
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
    lines = image.packages.read_text().splitlines() if image.debian else []
    resolved = {(name, "".join(stage)): version for name, version, *stage in map(str.split, lines)}
    for package, pin in image.debian.items():
        found = resolved.get((package, pin.get("stage", "")))
        assert found, f"{package} is declared in versions.toml and not in {image.packages.name}"
        assert _numbers(found) >= _numbers(pin["least"]), f"{package} {found} is too old"


def _numbers(version):
    """`1:10.0p1-7` as (1, 10, 0, 1, 7): enough to compare with a least version that states its epoch."""
    epoch, _, rest = version.rpartition(":")
    return [int(epoch or 0), *map(int, re.findall(r"\d+", rest))]


@every_image
def test_each_declared_debian_package_comes_from_the_suite_of_its_base_or_a_named_one(image):
    text = image.dockerfile()
    for package, pin in image.debian.items():
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


def test_every_pin_says_what_and_why_and_every_base_and_channel_until_when():
    def leaves(tree):
        """Tables and members of lists that have words in them."""
        inner = tree.values() if isinstance(tree, dict) else tree
        if isinstance(tree, dict) and any(isinstance(value, str) for value in inner):
            yield tree
        else:
            for value in inner:
                yield from leaves(value)

    pins = recipes.pins()
    packages = [pin for image in pins["image"].values() for pin in leaves(image) if "python" not in pin]
    supported = [*leaves(pins["base"]), *leaves(pins["channel"])]
    assert len(packages) > len(pins["image"])
    assert all("version" in pin or "least" in pin for pin in packages)
    assert all("supported_until" in pin for pin in supported)
    assert all(pin["why"].strip() for pin in (*packages, *supported, *leaves(pins["cuda"])))


@every_image
def test_layers_that_bring_the_same_package_bring_the_same_version_of_it(image):
    found = {}
    for path in image.directory.glob(f"requirements-{image.target}+*.txt"):
        for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE):
            assert found.setdefault(name, version) == version, (
                f"{name}: {found[name]} and, in {path.name}, {version}: pin it in images/versions.toml"
            )


@every_image
def test_the_readme_shows_the_image(image):
    lines = (recipes.IMAGES / "README.md").read_text().splitlines()
    rows = [row.strip("| ").split(" | ")[:5] for row in lines if row.startswith("| ")]
    stack = ", ".join(filter(None, (image.target.accelerator, image.target.variant)))
    formats = ", ".join({"docker": "Docker", "sif": "SIF"}[each] for each in image.formats)
    row = [f"`{image.name}`", image.target.arch, stack, formats, image.base["distribution"]]
    assert rows.count(row) == 1, f"images/README.md lacks the row | {' | '.join(row)} | ..."
