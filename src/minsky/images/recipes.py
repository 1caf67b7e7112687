"""From a recipe and the table of pins to the text of a Dockerfile and the key of its content."""

import hashlib
import importlib.util
import json
import platform
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import hpccm

from minsky.errors import MinskyError
from minsky.images.pins import load
from minsky.images.strict import warnings_raise
from minsky.paths import ROOT

IMAGES = ROOT / "images"
RENDERED = IMAGES / "rendered"
CA_BUNDLE = "host-ca.crt"  # the host's, in every build context: for stages that download, never the last
GPU = Path("/dev/nvidiactl")  # there where NVIDIA's driver has found a GPU


@dataclass(frozen=True)
class Target:
    """What an image is built for: `x86_64-cpu`, and in full `x86_64-cpu-keras2+jupyter+opencv`.

    *variant* is another line of versions, *layers* are what an image may have on top.
    """

    arch: str
    accelerator: str
    variant: str = ""
    layers: tuple[str, ...] = ()

    @property
    def stack(self) -> str:
        """The target without its layers, for which pins and bases stand."""
        return "-".join(filter(None, (self.arch, self.accelerator, self.variant)))

    def options(self, here: str = "") -> list[str]:
        """How it is typed, without the architecture *here*: `["--arch", "ppc64le", "--with", "jupyter"]`."""
        given = {
            "--arch": self.arch if self.arch != here else "",
            "--accelerator": self.accelerator if self.accelerator != "cpu" else "",
            "--variant": self.variant,
            "--with": ",".join(self.layers),
        }
        return [word for option, value in given.items() if value for word in (option, value)]

    def __str__(self) -> str:
        return "+".join((self.stack, *self.layers))


@dataclass(frozen=True)
class Image:
    """One image for one target: its recipe, and everything that follows from it."""

    name: str
    target: Target
    recipe: ModuleType
    overrides: tuple[tuple[str, str], ...] = ()  # build arguments that are not their defaults

    @property
    def directory(self) -> Path:
        """Where the recipe and its files lie."""
        return IMAGES / self.name

    @property
    def pins(self) -> dict[str, Any]:
        """The image's own table in versions.toml."""
        return dict(pins()["image"].get(self.name, {}))

    @property
    def base(self) -> dict[str, Any]:
        """The base's table in versions.toml."""
        return dict(pins()["base"][self.recipe.TARGETS[self.target.stack]["base"]])

    @property
    def architecture(self) -> dict[str, str]:
        """The architecture's table in versions.toml: what others call it, and how it is emulated."""
        return dict(pins()["architecture"][self.target.arch])

    @property
    def formats(self) -> tuple[str, ...]:
        """What it is made as: `docker` and `sif`, unless the recipe's FORMATS says otherwise."""
        return getattr(self.recipe, "FORMATS", ("docker", "sif"))

    @property
    def rendered(self) -> Path:
        """Where the committed Dockerfile lies."""
        top = getattr(self.recipe, "AT_THE_TOP", {}).get(str(self.target))
        return ROOT / top if top else RENDERED / f"{self.name}-{self.target}.Dockerfile"

    def texts(self) -> dict[Path, str]:
        """All that is committed as rendered, by where it lies: a text for each format."""
        path = RENDERED / f"{self.name}-{self.target}.def"
        return {self.rendered: self.dockerfile()} | (
            {path: self.definition()} if "sif" in self.formats else {}
        )

    @property
    def packages(self) -> Path:
        """Where the committed list of what the distribution delivered lies."""
        return RENDERED / f"{self.name}-{self.target}.packages.txt"

    @property
    def context(self) -> dict[str, bytes]:
        """The files that COPY takes from beside the recipe, by name.

        Raises:
            MinskyError: one is missing, or a Python package has no hash.
        """
        named = re.findall(r"^COPY (?!--from|Dockerfile\*)(\S+)", self.dockerfile(), re.MULTILINE)
        files = [self.directory / name for name in named if name != CA_BUNDLE]
        for path in files:
            locked = path.match("requirements-*.txt")
            if not path.is_file():
                mend = f"type: {self.command('lock')}" if locked else "write it, or take the copy() out."
                raise MinskyError(
                    f"{path.relative_to(ROOT)} is missing, which images/{self.name}/recipe.py copies: {mend}"
                )
            if locked and (bare := _without_hash(path.read_text())):
                raise MinskyError(
                    f"{path.relative_to(ROOT)} has no hash for {', '.join(bare)}, and pip would install "
                    f"nothing of it: type: {self.command('lock')}"
                )
        return {path.name: path.read_bytes() for path in files}

    @property
    def python(self) -> dict[str, dict[str, Any]]:
        """Pinned Python packages of this target, by name: `{"numpy": {"version": "2.0.2", ...}}`."""
        return self._pins("packages")

    @property
    def conda(self) -> dict[str, dict[str, Any]]:
        """Pinned conda packages of this target, by name: `{"nccl": {"version": "2.19.3", ...}}`."""
        return self._pins("conda")

    @property
    def debian(self) -> dict[str, dict[str, Any]]:
        """Debian packages that have a reason, by name: suite, least version, stage if it is not the last."""
        return self._pins("debian")

    def _pins(self, table: str) -> dict[str, dict[str, Any]]:
        """What *table* of the image pins for this target; a package has a pin for each group of targets."""
        return {
            name: pin
            for name, several in self.pins.get(table, {}).items()
            for pin in several
            if self.target.stack in pin["targets"] and pin.get("layer") in (None, *self.target.layers)
        }

    @property
    def offered(self) -> list[str]:
        """Optional layers that this target may have."""
        tables = (self.pins.get(table, {}) for table in ("packages", "debian"))
        several = (pin for table in tables for group in table.values() for pin in group)
        return sorted(
            {pin["layer"] for pin in several if "layer" in pin and self.target.stack in pin["targets"]}
        )

    def with_layers(self, *layers: str) -> "Image":
        """The same image with optional *layers*.

        Raises:
            MinskyError: one is not offered for this target.
        """
        if unknown := sorted(set(layers) - set(self.offered)):
            offered = f"its layers are {', '.join(self.offered)}" if self.offered else "it has none"
            raise MinskyError(
                f"Image {self.name} for {self.target} has no layer {' or '.join(unknown)}; {offered}."
            )
        return replace(self, target=replace(self.target, layers=tuple(sorted(set(layers)))))

    def with_arguments(self, given: Mapping[str, str]) -> "Image":
        """The same image with other values of its build arguments: another text, and so another key.

        Raises:
            MinskyError: it has no such argument, or a value is none.
        """
        names = [name for name in self.arguments if name != "BASE"]  # which the builder makes
        for name, value in given.items():
            if name not in names:
                known = f"those that may be given are {', '.join(names)}" if names else "none may be given"
                raise MinskyError(
                    f"Image {self.name} for {self.target} takes no build argument {name!r}; {known}."
                )
            if not re.fullmatch(r"\S+", value):
                raise MinskyError(
                    f"{value!r} is no value of the build argument {name}: type it without blanks, as "
                    f"--build-arg {name}={self.arguments[name]}"
                )
        return replace(self, overrides=tuple(sorted((dict(self.overrides) | dict(given)).items())))

    def command(self, verb: str) -> str:
        """What to type for *verb*: `python -m minsky.images build lab --arch ppc64le --with jupyter`."""
        words = ["python", "-m", "minsky.images", verb, self.name]
        if verb not in ("lock", "render"):  # which are for all targets
            words += self.target.options(platform.machine())
            words += [word for name, value in self.overrides for word in ("--build-arg", f"{name}={value}")]
        return shlex.join(words)

    @property
    def plain(self) -> "Image":
        """The same image without optional layers."""
        return replace(self, target=replace(self.target, layers=()))

    @property
    def needs_gb(self) -> float:
        """Room that Docker wants for building it."""
        return float(self.recipe.TARGETS[self.target.stack]["needs_gb"])

    @property
    def expected(self) -> dict[str, Any]:
        """What the image's own test is told.

        Pinned versions, least ones of Debian's packages, what Horovod must have been built with, the optional
        layers, and whether this host has a GPU that the image is for.
        """
        built_for_python = {n: pin for n, pin in self.conda.items() if "py" in pin.get("build", "")}
        return {
            "pins": {n: pin["version"] for n, pin in (self.python | built_for_python).items()},
            "horovod": self.recipe.TARGETS[self.target.stack].get("horovod"),
            "layers": self.target.layers,
            "debian": {n: pin["least"] for n, pin in self.debian.items() if "stage" not in pin},
            "gpu": self.target.accelerator == "cuda" and GPU.exists(),
        }

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
        stages = re.findall(
            r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", self.dockerfile(), re.MULTILINE | re.DOTALL
        )
        last, inherited = stages[-1], ""
        for below, name, text in reversed(stages):  # of the stages before it, those that it stands on
            if name == last[1]:
                last, inherited = (below, below, text), text + inherited
        lines = re.findall(r"^ENV (.*)", inherited.replace("\\\n", ""), re.MULTILINE)
        words = [word for line in lines for word in shlex.split(line)]
        for word in words:
            if "$" in word:
                raise MinskyError(
                    f"images/{self.name}/recipe.py sets {word} in its last stage, and a SIF is told values "
                    "only: write it out."
                )
        return dict(word.split("=", 1) for word in words)

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments and their defaults: the base, and what the recipe adds."""
        ours = {"BASE": self.base["image"], **getattr(self.recipe, "arguments", lambda _: {})(self)}
        return ours | {name: value for name, value in self.overrides if name in ours}

    def dockerfile(self) -> str:
        """The text of the Dockerfile: a function of recipe, target and versions.toml, nothing else."""
        head = "".join(f"ARG {name}={default}\n" for name, default in self.arguments.items())
        return f"{self._origin}{head}\n{self._stages('docker')}\n"

    def definition(self) -> str:
        """The text of Apptainer's definition file, of the same stages as the Dockerfile."""
        body = re.sub(r"^# NOTE: .*\n# Singularity .*\n", "", self._stages("singularity"), flags=re.MULTILINE)
        body = re.sub(r"\n{3,}", "\n\n", body).strip()
        typed = " ".join([self.name, *self.target.options(), "--format", "sif"])
        certificates = (
            f"#   cp /etc/ssl/certs/ca-certificates.crt {CA_BUNDLE}"
            "  # Enterprise Linux: /etc/pki/tls/certs/ca-bundle.crt\n"
        )
        by_hand = (
            f"# Where there is no Docker, `python -m minsky.images build {typed}`\n"
            "# builds it. By hand, as an ordinary user, with Apptainer 1.2 or later:\n"
            f"#   cd images/{self.name}\n"
            f"{certificates if CA_BUNDLE in body else ''}"
            f"#   apptainer build --ignore-fakeroot-command ~/{self.name}.sif"
            f" ../rendered/{self.name}-{self.target}.def\n"
        )
        return f"{self._origin}{by_hand}\n{body}\n"

    @property
    def _origin(self) -> str:
        return (
            f"# Rendered from images/{self.name}/recipe.py by `python -m minsky.images render`: edit that.\n"
        )

    def _stages(self, container_format: str) -> str:
        hpccm.config.set_container_format(container_format)
        hpccm.config.set_singularity_version("3.2")  # the first with several stages
        try:
            with warnings_raise():
                return "\n\n".join(str(stage) for stage in self.recipe.stages(self))
        finally:
            hpccm.config.set_container_format("docker")

    @property
    def key(self) -> str:
        """Twelve digits that change with all that the checkout says of the image.

        Which fixes the package mirror had that day is not part of it, nor the host's CA bundle, which decides
        what a build may fetch, not what comes out.
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
    """images/versions.toml, as `minsky.images.pins.load`."""
    return load(IMAGES / "versions.toml", {name: recipe.TARGETS for name, recipe in _recipes().items()})


def _without_hash(requirements: str) -> list[str]:
    """Packages for which the text of a requirements file has no hash."""
    lines = requirements.replace("\\\n", " ").splitlines()
    packages = [line for line in lines if line.strip() and not line.startswith("#")]
    return [
        re.split(r"[^\w.-]", line)[0]
        for line in packages
        if not re.search("--hash=sha256:[0-9a-f]{64}", line)
    ]


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


def _recipes() -> dict[str, ModuleType]:
    """Every images/NAME/recipe.py, by name."""
    found = {}
    for path in sorted(IMAGES.glob("*/recipe.py")):
        name = path.parent.name
        spec = importlib.util.spec_from_file_location(f"minsky_recipe_{name}", path)
        assert spec  # noqa: S101 - a path ending in .py always has one
        assert spec.loader  # noqa: S101
        found[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    return found


def catalogue() -> dict[str, list[Image]]:
    """Every image, by name, with one entry per target: whatever has an images/NAME/recipe.py."""
    return {
        name: [Image(name, Target(*target.split("-")), recipe) for target in recipe.TARGETS]
        for name, recipe in _recipes().items()
    }


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
    """The image *name* for *target* (default: the CPU of this machine).

    Raises:
        MinskyError: no such image, or not for that target.
    """
    known = {str(candidate.target): candidate for candidate in targets(name)}
    asked = target or f"{platform.machine()}-cpu"
    if asked in known:
        return known[asked]
    typed = [f"`{' '.join(candidate.target.options())}`" for candidate in known.values()]
    raise MinskyError(f"Image {name} has no target {asked!r}; type one of {', '.join(typed)}.")
