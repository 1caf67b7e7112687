"""Results as text, as JSON, as Nagios reads them, and as the reason for which Slurm drains a node."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from minsky.gpus.classes import NONE
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING
from minsky.nodecheck.node import Node
from minsky.nodecheck.run import Result

NAGIOS = {OK: 0, WARNING: 1, FAILED: 2}  # exit status; 3 is for what could not be judged
WIDEST = 44  # of a column, where no longer word is in it
REASON = 240  # characters that squeue and sinfo still show


def worst(results: list[Result]) -> str:
    """Return the worst verdict of all."""
    verdicts = {result.verdict for result in results}
    return next((each for each in (FAILED, WARNING) if each in verdicts), OK)


def counts(results: list[Result]) -> str:
    """Return how many checks ended how: `16 ok, 1 failed`."""
    found = Counter(result.verdict for result in results)
    return ", ".join(f"{found[each]} {each}" for each in (FAILED, WARNING, OK, SKIPPED) if found[each])


def text(results: list[Result], host: str, node: Node, seconds: float) -> str:
    """Return a table with a line per check, and below those that are not ok what to do."""
    shown = [result for result in results if result.verdict != SKIPPED]
    rows = [("check", "verdict", "found", "expected")]
    rows += [(each.name, each.verdict.upper() if each.do else each.verdict, each.found, each.expected)
             for each in shown]  # fmt: skip
    widths = [max(min(len(row[column]), WIDEST) for row in rows) for column in range(3)]
    lines = []
    for row, result in zip(rows, [None, *shown]):
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join([*cells, row[3]]).rstrip())
        if result and result.do:
            lines.append(f"{'':{widths[0]}}  do: {result.do}")
    skipped = [f"  {each.name}: {each.found}" for each in results if each.verdict == SKIPPED]
    if skipped:
        lines += ["", "skipped", *skipped]
    called = f"{_class(node)} (simulated GPUs)" if node.simulated else _class(node)
    return "\n".join([*lines, "", f"{host}, class {called}, {seconds:.2f} s: {counts(results)}"])


def as_json(results: list[Result], host: str, node: Node, seconds: float) -> str:
    """Return one object on one line."""
    return json.dumps({
        "node": host, "class": _class(node), "simulated": node.simulated, "verdict": worst(results),
        "seconds": round(seconds, 3), "checks": [asdict(result) for result in results],
        "floors": asdict(node.node_class.floors) if node.node_class else {},
    })  # fmt: skip


def _class(node: Node) -> str:
    return node.node_class.name if node.node_class else NONE


def nagios(results: list[Result], seconds: float) -> str:
    """Return the status line with performance data, then a line for each check that is not ok."""
    word = {OK: "OK", WARNING: "WARNING", FAILED: "CRITICAL"}[worst(results)]
    amounts = Counter(result.verdict for result in results)
    data = f"seconds={seconds:.3f}s;;10 failed={amounts[FAILED]} warnings={amounts[WARNING]}"
    said = _plain(reason(results) or counts(results))
    bad = [each for each in results if each.verdict in (WARNING, FAILED)]
    lines = [_plain(f"{each.name}: {each.found}, expected {each.expected}. {each.do}") for each in bad]
    return "\n".join([f"NODECHECK {word} - {said} | {data}", *lines])


def reason(results: list[Result]) -> str:
    """Return the failed checks with what was found, the shortest first, on one line; "" where none failed."""
    failed: dict[str, list[str]] = {}
    for each in results:
        if each.verdict == FAILED:
            failed.setdefault(each.found, []).append(each.name)
    told = sorted((f"{', '.join(names)}: {found}" for found, names in failed.items()), key=len)
    said = " ".join("; ".join(told).split())
    return said if len(said) <= REASON else f"{said[: REASON - 3]}..."


def _plain(words: str) -> str:
    return words.replace("|", "/")  # which would begin the performance data
