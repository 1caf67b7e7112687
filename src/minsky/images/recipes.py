"""From a recipe and the table of pins to the text of a Dockerfile and the key of its content."""

import hashlib
import importlib.util
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import hpccm

from minsky.errors import MinskyError
from minsky.images.strict import warnings_raise
from minsky.paths import ROOT

IMAGES = ROOT / "images"
RENDERED = IMAGES / "rendered"
CA_BUNDLE = "host-ca.crt"  # the host's, in every build context: for stages that download, never the last
DEBIAN_ARCH = {"x86_64": "amd64", "ppc64le": "ppc64el"}


@dataclass(frozen=True)
class Target:
    """What an image is built for: `x86_64-cpu`."""

    arch: str
    accelerator: str

    def __str__(self) -> str:
        return f"{self.arch}-{self.accelerator}"


@dataclass(frozen=True)
class Image:
    """One image for one target: its recipe, and everything that follows from it."""

    name: str
    target: Target
    recipe: ModuleType

    @property
    def directory(self) -> Path:
        """Where the recipe and its files lie."""
        return IMAGES / self.name

    @property
    def pins(self) -> dict[str, Any]:
        """The image's own tables in versions.toml: `debian`, `python`."""
        return dict(pins()["image"].get(self.name, {}))

    @property
    def base(self) -> dict[str, Any]:
        """The base's table in versions.toml."""
        return dict(pins()["base"][self.recipe.BASE])

    @property
    def rendered(self) -> Path:
        """Where the committed Dockerfile lies."""
        return RENDERED / f"{self.name}-{self.target}.Dockerfile"

    @property
    def packages(self) -> Path:
        """Where the committed list of what the distribution delivered lies."""
        return RENDERED / f"{self.name}-{self.target}.packages.txt"

    @property
    def context(self) -> dict[str, bytes]:
        """The files that COPY takes from beside the recipe, by name.

        Raises:
            MinskyError: one is missing.
        """
        named = re.findall(r"^COPY (?!--from)(\S+)", self.dockerfile(), re.MULTILINE)
        files = [self.directory / name for name in named if name != CA_BUNDLE]
        for path in files:
            if not path.is_file():
                raise MinskyError(
                    f"{path.relative_to(ROOT)} is missing, which images/{self.name}/recipe.py copies: write "
                    "it, or take the copy() out."
                )
        return {path.name: path.read_bytes() for path in files}

    @property
    def python(self) -> dict[str, dict[str, Any]]:
        """Pinned Python packages of this target, by name: `{"numpy": {"version": "2.0.2", ...}}`."""
        packages = self.pins.get("python", {}).get("packages", {})
        return {name: pin for name, pin in packages.items() if str(self.target) in pin["targets"]}

    @property
    def selftest(self) -> Path | None:
        """The image's own test; None where its recipe says in UNTESTED why there can be none.

        Raises:
            MinskyError: neither is there.
        """
        path = self.directory / "selftest.py"
        if path.exists():
            return path
        if getattr(self.recipe, "UNTESTED", None):
            return None
        raise MinskyError(
            f"images/{self.name}/selftest.py is missing, so nothing says whether the image works. Write it, "
            "or state in recipe.py why it cannot be written: UNTESTED = 'reason'."
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the last stage sets; Docker keeps them beside the files, where a SIF has none.

        Raises:
            MinskyError: one refers to another variable, whose value only Docker knows.
        """
        last = re.split(r"^FROM ", self.dockerfile(), flags=re.MULTILINE)[-1].replace("\\\n", "")
        words = [word for line in re.findall(r"^ENV (.*)", last, re.MULTILINE) for word in shlex.split(line)]
        for word in words:
            if "$" in word:
                raise MinskyError(
                    f"images/{self.name}/recipe.py sets {word} in its last stage, and a SIF is told values "
                    "only: write it out."
                )
        return dict(word.split("=", 1) for word in words)

    def dockerfile(self) -> str:
        """The text of the Dockerfile: a function of recipe, target and versions.toml, nothing else."""
        hpccm.config.set_container_format("docker")
        with warnings_raise():
            stages = self.recipe.stages(self)
            body = "\n\n".join(str(stage) for stage in stages)
        return (
            f"# Rendered from images/{self.name}/recipe.py by `python -m minsky.images render`: edit that.\n"
            f"ARG BASE={self.base['image']}\n\n{body}\n"
        )

    @property
    def key(self) -> str:
        """Twelve digits that change when, and only when, the image would.

        The host's CA bundle is not part of it: it decides what a build may fetch, not what comes out.
        """
        content = hashlib.sha256(self.dockerfile().encode())
        content.update(base_key(self.base, self.target.arch).encode())
        for name, data in self.context.items():
            content.update(f"\0{name}\0{hashlib.sha256(data).hexdigest()}".encode())
        return content.hexdigest()[:12]

    @property
    def tag(self) -> str:
        """The Docker tag: `minsky/lab:KEY`."""
        return f"minsky/{self.name}:{self.key}"


@cache
def pins() -> dict[str, Any]:
    """images/versions.toml."""
    return tomllib.loads((IMAGES / "versions.toml").read_text())


def base_key(base: dict[str, Any], arch: str) -> str:
    """Twelve digits for a base system: its suite, day and digest, and how it is made."""
    made_from = {
        "arch": arch,
        "suite": base["suite"],
        "renewed": base["renewed"],
        "digest": base.get("digest", {}).get(arch),
        "options": [*BOOTSTRAP_OPTIONS, *base.get("bootstrap", [])],
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]


# No packages and no index of them in layers. By a hook, for mmdebstrap itself needs both, and so leaves both.
_SLIM_APT = """printf '%s;\\n' 'APT::Keep-Downloaded-Packages "false"' 'Dir::Cache::pkgcache ""' \
'Dir::Cache::srcpkgcache ""' >"$1/etc/apt/apt.conf.d/99slim"; rm -f "$1"/var/cache/apt/*.bin"""
# The same omissions as in Debian's own -slim images; copyright files stay.
BOOTSTRAP_OPTIONS = [
    "--variant=minbase",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-include=/usr/share/locale/locale.alias",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    f"--customize-hook={_SLIM_APT}",
]


def catalogue() -> dict[str, list[Image]]:
    """Every image, by name, with one entry per target: whatever has an images/NAME/recipe.py."""
    found = {}
    for path in sorted(IMAGES.glob("*/recipe.py")):
        name = path.parent.name
        spec = importlib.util.spec_from_file_location(f"minsky_recipe_{name}", path)
        assert spec  # noqa: S101 - a path ending in .py always has one
        assert spec.loader  # noqa: S101
        recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(recipe)
        found[name] = [Image(name, Target(*target.rsplit("-", 1)), recipe) for target in recipe.TARGETS]
    return found


def targets(name: str) -> list[Image]:
    """The image *name* for every target that it has.

    Raises:
        MinskyError: no such image.
    """
    known = catalogue()
    if name not in known:
        raise MinskyError(f"There is no image {name!r}; the images are {', '.join(known)}.")
    return known[name]


def image(name: str, target: str | None = None) -> Image:
    """The image *name* for *target* (default: its first).

    Raises:
        MinskyError: no such image, or not for that target.
    """
    known = targets(name)
    for candidate in known:
        if target in (None, str(candidate.target)):
            return candidate
    there = ", ".join(str(candidate.target) for candidate in known)
    raise MinskyError(f"Image {name} has no target {target!r}; its targets are {there}.")
