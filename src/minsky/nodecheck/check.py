"""What a check is, and the registry that finds all of them."""

from __future__ import annotations

import os
import pkgutil
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Callable

from minsky.gpus.text import clean
from minsky.nodecheck.node import Node

OK, WARNING, FAILED, SKIPPED = VERDICTS = ("ok", "warning", "failed", "skipped")
LONGEST = 9.0  # seconds that a check may have, so that all end within 10
MEASURING = 120.0  # seconds, of one that measures


class Failure(Exception):  # noqa: N818 - it is a finding, not an error of the program
    """What was *found* in place of an answer; *do*: what to do, where the check would say another thing."""

    def __init__(self, found: str, do: str = "") -> None:
        super().__init__(found)
        self.found, self.do = found, do


@dataclass(frozen=True)
class Finding:
    """What a check *expected* and *found*; *do*: what to do unless it is ok."""

    expected: str
    found: str
    verdict: str = OK
    do: str = ""


@dataclass(frozen=True)
class Check:
    """A registered check; *about*, the first line of its docstring, is what it expects in general.

    *applies* returns why a node has no such check, or "". *each* returns what it is done for, once for each.
    *recorded*: whose outputs tell of it where the node is a recording, SMI or CPUS; *measures*: it takes the
    machine for itself, and is done only where that is asked for.
    """

    name: str
    about: str
    do: str
    seconds: float
    judge: Callable[..., Finding]
    applies: Callable[[Node], str]
    each: Callable[[Node], Iterable[str]] | None
    recorded: str = ""
    measures: bool = False

    def untold(self, node: Node) -> str:
        """Say why recordings do not tell of it; "" where they do, and where the *node* itself is asked."""
        if node.recorded is None or (self.recorded and node.told(self.recorded)):
            return ""
        return f"no output of {self.recorded} is recorded" if self.recorded else "a recording does not tell"


CHECKS: dict[str, Check] = {}


def always(node: Node) -> str:  # noqa: ARG001 - as all that say whether a check applies
    """Every node has the check."""
    return ""


def check(  # noqa: PLR0913 - of the keywords most checks need one
    do: str,
    *,
    applies: Callable[[Node], str] = always,
    seconds: float = 5.0,
    each: Callable[[Node], Iterable[str]] | None = None,
    recorded: str = "",
    measures: bool = False,
) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Register a function of a node (and of one of *each*) as the check of its name.

    *do* says what to do where it fails or has no answer after *seconds*; {} in it is the one of *each*.
    """
    longest = MEASURING if measures else LONGEST
    if not 0 < seconds <= longest:
        raise ValueError(f"a check has at most {longest:g} s, not {seconds:g}")

    def register(judge: Callable[..., Finding]) -> Callable[..., Finding]:
        name = judge.__name__.replace("_", "-")
        about = (judge.__doc__ or "").strip().split("\n")[0].rstrip(".")
        CHECKS[name] = Check(name, about, do, seconds, judge, applies, each, recorded, measures)
        return judge

    return register


def registered() -> dict[str, Check]:
    """Return all checks by name, those of every module in `checks/`."""
    package = import_module("minsky.nodecheck.checks")
    for module in sorted(each.name for each in pkgutil.iter_modules(package.__path__)):
        import_module(f"{package.__name__}.{module}")
    return CHECKS


def verdict(expected: str, found: str, *, good: bool) -> Finding:
    """Return the finding that is ok where it is *good*, and failed where not."""
    return Finding(expected, found, OK if good else FAILED)


def output(*command: str, stdin: str = "") -> str:
    """Return what *command* prints, errors too. Nothing limits its time: the check's own limit does.

    Raises:
        Failure: there is no such tool, or it fails.
    """
    try:
        done = subprocess.run(
            command, check=False, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise Failure(
            f"{command[0]} cannot be run ({error.strerror})",
            f"install {command[0]}, or state under skip: in the node file why these nodes have none",
        ) from error
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        failures = clean(text).failures  # the driver's, the same from every command
        said = next((line.strip() for line in text.split("\n") if line.strip()), "it says nothing")
        words = failures[0].what if failures else f"{shlex.join(command)}: {said}"
        raise Failure(f"{words} (exit status {done.returncode})")
    return text
