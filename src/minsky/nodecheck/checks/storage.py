"""File systems: mounted, of the type, answering, writable."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from minsky.nodecheck.check import FAILED, Failure, Finding, check
from minsky.nodecheck.node import Mount, Node

OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc/mounts writes blanks


def mounts(node: Node) -> Iterable[str]:
    """Return where file systems must be mounted."""
    return node.mounts


def stated(node: Node) -> str:
    """Say why no mount is checked."""
    return "" if node.mounts else "the node file states no mounts"


@check("see that its servers answer, then umount -l {} and mount it again", applies=stated, each=mounts)
def mount(node: Node, path: str) -> Finding:
    """Mounted, answering, and writable where the node file says so."""
    wanted = node.mounts[path] or Mount()
    access = "writable" if wanted.writable else "readable"
    expected = f"{wanted.type if wanted.type != '*' else 'mounted'}, {access}"
    place = path.rstrip("/") or "/"
    lines = [line.split() for line in node.read("proc/self/mounts").splitlines()]
    types = [(cells[2], cells[3]) for cells in lines if OCTAL.sub(_character, cells[1]) == place]
    if not types:
        return Finding(expected, "not mounted", FAILED)
    kind, options = types[-1]  # the one on top
    if not fnmatchcase(kind, wanted.type):
        return Finding(expected, f"{kind} is mounted there", FAILED)
    if wanted.writable and "ro" in options.split(","):
        return Finding(expected, f"{kind}, mounted read-only", FAILED)
    try:
        next(os.scandir(path), None)
        if wanted.writable:
            _write(Path(path))
    except OSError as error:
        raise Failure(f"{kind}: {error.strerror}") from error
    return Finding(expected, f"{kind}, {access}")


def _character(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _write(directory: Path) -> None:
    """Write a file, read it back and remove it."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".nodecheck-") as file:
        file.write(b"nodecheck\n")
        file.flush()
        os.fsync(file.fileno())
        if Path(file.name).read_bytes() != b"nodecheck\n":
            raise Failure("what is written is not what is read back")
