"""Records from YAML, strictly: no key too many, twice or too few, no value of another kind.

Nothing but PyYAML, for Python 3.9: node classes are also read on nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Record = TypeVar("Record")
WORDS = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list",
    dict: "a list of keys",
}  # fmt: skip


class FaultsError(Exception):
    """What is wrong with a text, a sentence each, which begins with the key where there is one."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class _Strict(yaml.SafeLoader):
    """YAML in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def mapping(text: str) -> dict[str, Any]:
    """Return the keys and values of *text*.

    Raises:
        FaultsError: it is no YAML, or none of keys.
    """
    try:
        content = yaml.load(text, Loader=_Strict)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as the date 2024-13-45
        raise FaultsError([f"this is no YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, dict):
        raise FaultsError(["this is no list of keys"])
    return content


def record(content: dict[str, Any], kind: type[Record], hidden: tuple[str, ...] = ()) -> Record:
    """Return *content* as the dataclass *kind*; *hidden* keys are not told of as ones that a file may have.

    Raises:
        FaultsError: with all that does not fit.
    """
    faults: list[str] = []
    made = _value(content, kind, "", faults, hidden)
    if faults:
        raise FaultsError(faults)
    return made  # type: ignore[no-any-return] # of the kind that was asked for


def _value(value: Any, kind: Any, key: str, faults: list[str], hidden: tuple[str, ...] = ()) -> Any:
    """Return *value* as *kind*; None, and another of the *faults*, where it is something else."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Union:  # of something and None
        return None if value is None else _value(value, inner[0], key, faults)
    expected = origin or (dict if is_dataclass(kind) else kind)
    found = type(value)
    if found is not expected and not (kind is float and found is int):
        faults.append(f"{key}: {value!r} is not {WORDS[expected]}")
        return None
    if origin is list:
        return [_value(each, inner[0], f"{key}[{place}]", faults) for place, each in enumerate(value)]
    if origin is dict:
        faults.extend(f"{key}: the key {name!r} is not text" for name in value if type(name) is not str)
        return {name: _value(each, inner[1], f"{key}.{name}", faults) for name, each in value.items()}
    if not is_dataclass(kind):
        return value
    before = len(faults)
    faults.extend(_misfits(value, kind, key, hidden))
    types = get_type_hints(kind)
    made = {
        name: _value(each, types[name], f"{key}.{name}".lstrip("."), faults)
        for name, each in value.items()
        if name in types
    }
    return kind(**made) if len(faults) == before else None  # type: ignore[operator] # a class


def _misfits(value: dict[Any, Any], kind: Any, key: str, hidden: tuple[str, ...]) -> Iterator[str]:
    known = {field.name: field for field in fields(kind)}
    unknown = ", ".join(sorted(str(name) for name in value.keys() - known.keys()))
    if unknown:
        there = ", ".join(name for name in known if name not in hidden)
        yield f"{key}: unknown key {unknown}; there are {there}".removeprefix(": ")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            yield f"{key}.{name}: this key is missing".lstrip(".")
