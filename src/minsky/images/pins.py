"""images/versions.toml, read and checked: a pin that cannot be meant is refused by name, before any build."""

import json
import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from minsky.errors import MinskyError

Table = dict[str, Any]
Targets = Mapping[str, Mapping[str, Mapping[str, Any]]]  # of every recipe, by its image: its TARGETS

# The fields of each kind of table: those that it must have and those that it may have, each by an example.
_PIN: Table = {"targets": ["x86_64-*"], "why": "the newest that TensorFlow 2.18 accepts"}
_PACKAGES: dict[str, tuple[Table, Table]] = {  # tables of an image in which a package has a list of pins
    "packages": (
        {"version": "2.0.2", "form": "wheel", **_PIN},
        {"extras": ["and-cuda"], "layer": "jupyter"},
    ),
    "debian": ({"suite": "trixie", "least": "1:2.2.4", **_PIN}, {"stage": "build", "layer": "jupyter"}),
    "conda": ({"version": "2.19.3", **_PIN}, {"build": "py311*"}),
}
_PYTHON: tuple[Table, Table] = ({"python": "3.11", "leave_out": ["libclang"]}, {})
_FILE: tuple[Table, Table] = ({"version": "1.5.8-0", "sha256": "c8e9...", "why": _PIN["why"]}, {})
_TABLES: dict[str, tuple[Table, Table]] = {
    "architecture": (
        {"debian": "ppc64el", "docker": "ppc64le", "uv": "powerpc64le"},
        {"emulated_cpu": "power8nvl"},
    ),
    "base": (
        {
            "suite": "trixie",
            "distribution": "Debian 13",
            "image": "debian:trixie-slim",
            "architectures": ["x86_64"],
            "renewed": "2026-11-22",
            "supported_until": "2030-06-30",
            "why": "Slurm 24.11 in the distribution",
        },
        {"alias": "stable", "bootstrap": ["--include=usr-is-merged"], "digest": {"x86_64": "sha256:..."}},
    ),
    "channel": (
        {
            "url": "https://example.org/channel",
            "argument": "CONDA_FORGE",
            "supported_until": "unknown",
            "why": "Python",
        },
        {},
    ),
    "cuda": ({"driver": "450", "why": "runs with driver 470"}, {}),
    "data": ({"licence": "CC0", "mirrors": ["https://example.org/"], "files": {"name": "SHA-256"}}, {}),
}
_TARGET = {"base": "trixie", "needs_gb": 8}  # what a recipe says of each of its targets, by an example
# What a field's words must look like, and that in words.
_SHAPES = {
    "form": ("wheel|source", "wheel or source"),
    "renewed": (r"\d{4}-\d\d-\d\d", "a date"),
    "sha256": (r"[0-9a-f]{64}", "64 hexadecimal digits, as sha256sum prints them"),
    "supported_until": (r"\d{4}-\d\d-\d\d|unknown", "a date, or unknown"),
    **dict.fromkeys(("version", "least", "why"), (r".*\S.*", "not empty")),
}


def load(path: Path, targets: Targets) -> Table:
    """The pins in the file *path*, checked, and with the names of targets in the place of their patterns.

    Raises:
        MinskyError: the file is missing or no TOML, or as `check`.
    """
    try:
        pins = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MinskyError(
            f"images/versions.toml cannot be read: {error}. Mend that place; `git diff {path}` shows what "
            "has changed."
        ) from error
    check(pins, targets)
    for name, image in pins["image"].items():
        for several in (group for kind in _PACKAGES for group in image.get(kind, {}).values()):
            for pin in several:
                pin["targets"] = _meant(pin, targets[name])
    return pins


def check(pins: Table, targets: Targets) -> None:
    """Refuse what no recipe could mean, by table, package and field.

    Args:
        pins: images/versions.toml.
        targets: of every recipe, by its image: its TARGETS.

    Raises:
        MinskyError: a table, a field or a value is missing or unknown, or a target has no base or recipe.
    """
    for kind in (*_TABLES, "image"):
        if kind not in pins:
            _refuse(f"[{kind}]", "is missing: write it, as the last revision of the file has it")
    for kind, tables in pins.items():
        if kind != "image" and kind not in _TABLES:
            _refuse(f"[{kind}]", f"is no table that anything reads: they are {', '.join(_TABLES)}, image")
        for name, table in _table(tables, f"[{kind}]").items():
            if kind != "image":
                _fields(table, f"[{kind}.{name}]", *_TABLES[kind])
            elif name not in targets:
                _refuse(
                    f"[image.{name}]",
                    f"is of no image: write images/{name}/recipe.py, or one of {', '.join(targets)}",
                )
            else:
                _image(table, f"image.{name}", targets[name])
    for name, recipe in targets.items():
        for target, means in recipe.items():
            _target(pins, f"the target {target} of images/{name}/recipe.py", target.split("-")[0], means)


def _image(tables: Any, where: str, targets: Mapping[str, Any]) -> None:
    if "packages" in _table(tables, f"[{where}]") and "python" not in tables:
        example = _written("python", _PYTHON[0]["python"])
        _refuse(f"[{where}.python]", f"is missing, and Python packages are for one Python: write {example}")
    for kind, table in _table(tables, f"[{where}]").items():
        if kind == "python":
            _fields(table, f"[{where}.python]", *_PYTHON)
        elif kind not in _PACKAGES:  # one file that a recipe fetches
            _fields(table, f"[{where}.{kind}]", *_FILE)
        else:
            for package, pins in _table(table, f"[{where}.{kind}]").items():
                _package(pins, f"[{where}.{kind}] {package}", kind, targets)


def _package(pins: Any, where: str, kind: str, targets: Mapping[str, Any]) -> None:
    if not isinstance(pins, list) or not pins:
        _refuse(where, "is no list of pins: write [{ ... }], one for each group of targets")
    seen: set[str] = set()
    for pin in pins:
        _fields(pin, where, *_PACKAGES[kind])
        for pattern in pin["targets"]:
            if not any(fnmatchcase(target, pattern) for target in targets):
                known = ", ".join(targets)
                _refuse(where, f"is for the target {pattern!r}, which the recipe does not have: {known}")
        found = set(_meant(pin, targets))
        if twice := sorted(found & seen):
            _refuse(where, f"is pinned twice for {', '.join(twice)}: take that out of one of the targets")
        seen |= found


def _meant(pin: Table, targets: Mapping[str, Any]) -> list[str]:
    """The names of those *targets* that *pin* is for."""
    return [target for target in targets if any(fnmatchcase(target, pattern) for pattern in pin["targets"])]


def _target(pins: Table, who: str, arch: str, means: Mapping[str, Any]) -> None:
    for field, example in _TARGET.items():
        if field not in means:
            written = json.dumps({field: example})[1:-1]
            raise MinskyError(f"TARGETS: {who} lacks {field}: write one, such as {written}.")
    base = means["base"]
    for kind, name in (("base", base), ("architecture", arch)):
        if name not in pins.get(kind, {}):
            _refuse(f"[{kind}.{name}]", f"is missing, which {who} needs: write it, or change the target")
    if arch not in pins["base"][base]["architectures"]:
        _refuse(
            f"[base.{base}]",
            f"does not list {arch} in architectures, and {who} is built on it: add it, or take another base",
        )


def _fields(table: Any, where: str, needed: Table, optional: Table) -> None:
    known = needed | optional
    for field in _table(table, where):
        if field not in known:
            _refuse(where, f"has {field!r}, which nothing reads: its fields are {', '.join(known)}")
    for field, example in known.items():
        if field not in table and field in needed:
            _refuse(where, f"lacks {field}: write one, such as {_written(field, example)}")
        value = table.get(field, example)
        if not _alike(value, example):
            like = _written(field, example)
            _refuse(where, f"has {field} = {value}, which is of another kind: write such as {like}")
        shape, words = _SHAPES.get(field, (".*", ""))
        if field in table and isinstance(value, str) and not re.fullmatch(shape, value):
            _refuse(where, f"has {_written(field, value)}, which must be {words}")


def _alike(value: object, example: object) -> bool:
    """Whether both are words, lists of words, or tables of words."""
    if type(value) is not type(example):
        return False
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else []
    return all(isinstance(word, str) for word in inner)


def _table(found: Any, where: str) -> Table:
    if not isinstance(found, dict):
        _refuse(where, "is no table: write FIELD = VALUE below it, a line each")
    return dict(found)


def _written(field: str, value: object) -> str:
    """As TOML has it."""
    return (
        f"{field} = {json.dumps(value, ensure_ascii=False)}"
        if not isinstance(value, dict)
        else f"a table [{field}]"
    )


def _refuse(where: str, why: str) -> NoReturn:
    raise MinskyError(f"images/versions.toml: {where} {why}.")
