"""All checks side by side, each in a process of its own that nobody waits for longer than its limit.

What measures comes after them, one at a time: nothing else then takes of what it measures.

A process that hangs in the kernel (a dead file server) cannot be killed and keeps what it has open. So no
check keeps this program's output open, and none is waited for: it is killed, told of and left to init.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import NoReturn

from minsky.errors import MinskyError
from minsky.nodecheck.check import FAILED, OK, SKIPPED, Check, Failure, Finding
from minsky.nodecheck.node import Node

GRACE = 0.2  # seconds in which a process that has closed its pipe tells how it ended


@dataclass(frozen=True)
class Result(Finding):
    """A check's finding; *name* has what it was done for, *seconds* it took."""

    name: str = ""
    seconds: float = 0.0


@dataclass
class _Child:
    """A running check *of* something, the process *pid*, whose *answer* comes through *pipe*."""

    check: Check
    of: tuple[str, ...]
    pid: int = 0
    pipe: int = -1
    began: float = 0.0
    answer: bytes = b""

    @property
    def name(self) -> str:
        return " ".join((self.check.name, *self.of))


def run(node: Node, checks: list[Check], skip: dict[str, str]) -> list[Result]:
    """Return a result of each check, in their order; *skip* has reasons for those that are not done."""
    results, waiting = _planned(node, checks, skip)
    _side_by_side([child for child in waiting if not child.check.measures], node, results)
    for child in (child for child in waiting if child.check.measures):
        _side_by_side([child], node, results)
    return list(results.values())


def _side_by_side(waiting: list[_Child], node: Node, results: dict[str, Result]) -> None:
    with selectors.DefaultSelector() as selector:
        try:
            for child in waiting:
                refused = _start(child, node)
                if refused:
                    results[child.name] = refused
                else:
                    selector.register(child.pipe, selectors.EVENT_READ, child)
            while selector.get_map():
                children = [key.data for key in selector.get_map().values()]
                next_limit = min(child.began + child.check.seconds for child in children)
                for key, _ in selector.select(max(0.0, next_limit - time.monotonic())):
                    data = os.read(key.fd, 65536)
                    key.data.answer += data
                    if not data:
                        selector.unregister(key.fd)
                        results[key.data.name] = _ended(key.data)
                for child in [key.data for key in selector.get_map().values()]:
                    if time.monotonic() >= child.began + child.check.seconds:
                        selector.unregister(child.pipe)
                        results[child.name] = _hung(child)
        finally:
            for key in selector.get_map().values():
                _kill(key.data)


def _planned(node: Node, checks: list[Check], skip: dict[str, str]) -> tuple[dict[str, Result], list[_Child]]:
    """Return results of the checks that are skipped, with places for the others, and those others."""
    results: dict[str, Result] = {}
    waiting: list[_Child] = []
    for check in checks:
        reason = skip.get(check.name) or check.untold(node) or check.applies(node)
        subjects = [(each,) for each in check.each(node)] if check.each and not reason else [()]
        for child in (_Child(check, subject) for subject in subjects):
            results[child.name] = Result(check.about, reason, SKIPPED, name=child.name)
            waiting += [] if reason else [child]
    return results, waiting


def _start(child: _Child, node: Node) -> Result | None:
    """Start a check; a node that has no process left for it is found unfit."""
    child.began = time.monotonic()
    child.pipe, write = os.pipe()
    try:
        child.pid = os.fork()
    except OSError as error:
        os.close(child.pipe)
        os.close(write)
        return _result(child, Finding(child.check.about, f"no process for it: {error.strerror}", FAILED))
    if child.pid == 0:
        _work(child, node, write)
    os.close(write)
    with suppress(OSError):  # it may be faster, or gone
        os.setpgid(child.pid, child.pid)
    return None


def _work(child: _Child, node: Node, write: int) -> NoReturn:
    """Do the check, in its process, and write the finding."""
    try:
        os.setpgid(0, 0)  # what it starts is killed with it
        null = os.open(os.devnull, os.O_RDWR)
        # Whoever reads this program's output must not wait for a process that hangs.
        for standard in range(3):
            os.dup2(null, standard)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(int(child.check.seconds) + 2)  # ends it where this program was killed itself
        os.chdir("/")
        with os.fdopen(write, "w") as pipe:
            json.dump(_judged(child, node), pipe)
    finally:
        os._exit(0)


def _judged(child: _Child, node: Node) -> dict[str, str]:
    try:
        return asdict(child.check.judge(node, *child.of))
    except Failure as failure:
        return asdict(Finding(child.check.about, failure.found, FAILED, failure.do))
    except MinskyError as error:  # a tool's answer that cannot be read
        return asdict(Finding(child.check.about, str(error), FAILED))
    except Exception as error:  # noqa: BLE001 - a check that breaks has not found the node fit
        return asdict(Finding(child.check.about, f"the check itself broke: {error!r}", FAILED))


def _ended(child: _Child) -> Result:
    """Return the result of a check that has closed its pipe."""
    try:
        finding = Finding(**json.loads(child.answer))
    except (ValueError, TypeError):
        finding = Finding(child.check.about, f"no answer, as its process {_status(child)}", FAILED)
    _kill(child)
    return _result(child, finding)


def _hung(child: _Child) -> Result:
    _kill(child)
    return _result(
        child, Finding(child.check.about, f"it hangs: no answer within {child.check.seconds:g} s", FAILED)
    )


def _result(child: _Child, finding: Finding) -> Result:
    do = (
        ""
        if finding.verdict in (OK, SKIPPED)
        else finding.do or child.check.do.replace("{}", " ".join(child.of))
    )
    told = asdict(replace(finding, do=do))
    return Result(**told, name=child.name, seconds=round(time.monotonic() - child.began, 3))


def _status(child: _Child) -> str:
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            return f"was ended by signal {ended}" if ended else "ended without one"
        time.sleep(0.01)
    return "does not end"


def _kill(child: _Child) -> None:
    """Kill a check with all that it started, and wait for nothing."""
    os.close(child.pipe)
    with suppress(OSError):  # it has ended, or was waited for
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(OSError):
        os.waitpid(child.pid, os.WNOHANG)
