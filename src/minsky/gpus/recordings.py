"""Recordings as files: the outputs of several commands on one node."""

from __future__ import annotations

from minsky.errors import MinskyError
from minsky.gpus import READABLE, parse
from minsky.gpus.model import RefusedError, Topology
from minsky.gpus.text import decode

LARGEST = 4 * 2**20  # bytes of a recording; what is larger is none


def read(files: list[str]) -> list[Topology]:
    """Return what each of *files* tells; `-` is the standard input.

    Raises:
        MinskyError: a file cannot be read, or is none of the commands that are.
    """
    parts = []
    for file in files:
        try:
            with open(0 if file == "-" else file, "rb") as content:  # noqa: PTH123 - 0 is the standard input
                text = content.read(LARGEST + 1)
        except OSError as error:
            raise MinskyError(f"{file} cannot be read ({error.strerror}): name a command's output") from error
        if len(text) > LARGEST:
            raise RefusedError(f"{file} has more than 4 MiB: that is no recording of {READABLE}")
        try:
            parts.append(parse(decode(text)))
        except RefusedError as error:
            raise RefusedError(f"{file}: {error}") from error
    return parts
