"""Smoke tests of nodes: what nodecheck finds on this one, on all of an inventory at once, or in recordings.

`pytest tests/smoke` makes a test of each finding; `table` and `picture` show them node by node.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from shlex import join
from typing import Any

from minsky.errors import MinskyError
from minsky.nodecheck.check import FAILED
from minsky.nodecheck.run import Result
from minsky.paths import ROOT
from minsky.playbook import ansible_environment

NODECHECK = "/usr/local/sbin/nodecheck"  # where role nodecheck puts it
GROUP = "slurm_node"
CONNECT, LIMIT, MEASURING = 10, 30, 600  # seconds: until ssh answers, nodecheck does, and one that measures
WORDS = 300  # characters of what is no answer
SIDE_BY_SIDE = 32  # connections at a time
ANSWER = Result("nodecheck tells what it finds", "it does", name="nodecheck")  # of nodes that are asked


@dataclass(frozen=True)
class Report:
    """What nodecheck found on a node; *class_name* is "" where it did not answer."""

    node: str
    results: list[Result]
    class_name: str = ""
    simulated: bool = False

    @property
    def failed(self) -> list[Result]:
        """The checks that failed."""
        return [each for each in self.results if each.verdict == FAILED]


def here(*arguments: str) -> Report:
    """Return what nodecheck finds with *arguments* on this machine, or in the recordings that they name."""
    command = [sys.executable, "-m", "minsky.nodecheck", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    recorded = [Path(value).name for name, value in pairwise(arguments) if name == "--recorded"]
    do = "do as it says; python -m minsky.nodecheck --help tells what it takes"
    return read(", ".join(recorded) or platform.node(), done.stdout, done.stderr, do)


def everywhere(inventory: Path, *arguments: str, nodes: str = GROUP) -> list[Report]:
    """Return what the *nodes* of an inventory find, asked at once, each by its own nodecheck and node file.

    A node that does not answer is a report of one failed check.

    Raises:
        MinskyError: the inventory has no such nodes, or cannot be read.
    """
    limit = MEASURING if "--measure" in arguments else LIMIT
    # Not a module: that would be copied to each node, and want Python there, before anything is asked.
    command = [
        "ansible", nodes, "-i", str(inventory.resolve()), "-m", "ansible.builtin.raw",
        "-a", join([NODECHECK, "--json", *arguments]), "-T", str(CONNECT), "-f", str(SIDE_BY_SIDE),
    ]  # fmt: skip
    settings = {
        "ANSIBLE_STRATEGY": "linear",  # not mitogen, which starts a Python on each node
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.timer",  # it takes no empty list
        "ANSIBLE_TASK_TIMEOUT": str(limit),
    }
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env=ansible_environment() | settings,
    )  # fmt: skip
    try:
        told, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
        hosts: dict[str, Any] = told["plays"][0]["tasks"][0]["hosts"]
    except (ValueError, KeyError, IndexError):
        hosts = {}
    if not hosts:
        said = next((line for line in done.stderr.splitlines() if line.strip()), "")
        raise MinskyError(
            f"{inventory} has no hosts in {nodes}, so there is none to test ({said or 'no more told'}): name "
            "an inventory with that group by --inventory"
        )
    return [_asked(name, hosts[name]) for name in sorted(hosts, key=_by_number)]


def _asked(name: str, told: dict[str, Any]) -> Report:
    """Return the report of a host of which Ansible *told*."""
    if told.get("unreachable"):
        return unanswered(name, str(told.get("msg")), f"see that it is up and reached by ssh ({name})")
    said = str(told.get("stderr") or told.get("msg", ""))
    report = read(name, str(told.get("stdout", "")), said, f"playbooks/site.yml installs {NODECHECK} anew")
    return replace(report, results=[ANSWER, *report.results]) if report.class_name else report


def of_job(directory: Path) -> list[Report]:
    """Return what jobs/smoke.sh found, of which it has left a line for each node in *directory*.

    Raises:
        MinskyError: there is nothing of that.
    """
    do = "run jobs/smoke.sh again, of the same version as these tests"
    try:
        lines = (directory / "nodes.jsonl").read_text().splitlines()
        return [read(str(json.loads(line)["node"]), line, "", do) for line in lines]
    except (OSError, ValueError, KeyError) as error:
        raise MinskyError(
            f"{directory} has no nodes.jsonl of a smoke job ({error}): name the smoke-JOB/ of an ended one"
        ) from error


def read(node: str, answer: str, errors: str, do: str) -> Report:
    """Return what nodecheck's *answer* to --json says; where it has none its *errors*, with what to *do*."""
    for line in answer.splitlines():
        with suppress(ValueError):  # a word of the shell's, for instance
            told = json.loads(line)
            try:
                results = [Result(**each) for each in told["checks"]]
                return Report(node, results, told["class"], told["simulated"])
            except (KeyError, TypeError):
                return unanswered(node, "an answer of another version of nodecheck", do)
    return unanswered(node, " ".join(f"{answer} {errors}".split())[:WORDS] or "no answer", do)


def unanswered(node: str, found: str, do: str) -> Report:
    """Return the report of a node that has not told of its checks."""
    return Report(node, [replace(ANSWER, found=found, verdict=FAILED, do=do)])


def _by_number(name: str) -> list[tuple[int, str]]:
    """Return what sorts node10 behind node9."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]


def fold(reports: list[Report]) -> list[tuple[str, Report]]:
    """Return one report of all that agree, each with the names of its nodes as Slurm writes them."""
    from minsky.gpus.slurm import hostlist  # noqa: PLC0415 - ClusterShell takes a third of a second

    alike: dict[Any, list[Report]] = {}
    for report in reports:
        found = tuple((each.name, each.verdict, each.found if each.do else "") for each in report.results)
        alike.setdefault((report.class_name, report.simulated, found), []).append(report)
    return [
        (hostlist(each.node for each in same) if len(same) > 1 else same[0].node, same[0])
        for same in alike.values()
    ]


def checks(reports: list[Report], *verdicts: str) -> list[str]:
    """Return the names of checks that have one of *verdicts* on some node, in order."""
    return list(dict.fromkeys(
        each.name for report in reports for each in report.results if each.verdict in verdicts
    ))  # fmt: skip


def title(reports: list[Report]) -> str:
    """Return what was tested and how it went, in words."""
    classes = sorted({report.class_name for report in reports if report.class_name})
    simulated = sum(report.simulated for report in reports)
    words = [f"{len(reports)} node{'s' * (len(reports) != 1)}", f"class {', '.join(classes) or 'not told'}"]
    if simulated:
        words.append("simulated GPUs" if simulated == len(reports) else f"GPUs of {simulated} simulated")
    failed = sum(bool(report.failed) for report in reports)
    return f"{', '.join(words)}: {f'{failed} failed' if failed else 'none failed'}"
