"""What the steps of making an image share: Docker, a lock, and what they say while they work."""

import io
import re
import tarfile
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Self

from docker import DockerClient
from rich.console import Console

from minsky.dockerd import client
from minsky.paths import CACHE

console = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)


def docker() -> DockerClient:
    """The Docker daemon's client, with an hour's patience: a build step may be silent for minutes."""
    return client(timeout=3600)


def member(client: DockerClient, tag: str, path: str) -> bytes:
    """The file *path* of the image *tag*."""
    container = client.containers.create(tag, "true", labels={"minsky": "1"})
    try:
        chunks, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            file = archive.extractfile(Path(path).name)
            assert file  # noqa: S101 - a file, not a directory
            return file.read()
    finally:
        container.remove(force=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock *name*: two commands that need the same image build it once."""
    directory = CACHE / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / name).open("w") as handle:
        try:
            flock(handle, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            console.print(f"[{name}] another command is making it; waiting for that")
            flock(handle, LOCK_EX)
        yield


class Progress:
    """What a long command says that makes *name*: each step as it begins, and what a terminal may watch."""

    def __init__(self, name: str, begin: float) -> None:
        self._name, self._begin, self._step = name, begin, ""
        self._last = deque[str](maxlen=25)
        self._status = console.status("")  # shown on a terminal only

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def begins(self, step: str, heading: str = "") -> None:
        """A *step* begins, which *heading* places."""
        self._step = step
        self._last.clear()
        shown = textwrap.shorten(step, 90, placeholder=" ...")
        console.print(f"[{self._name}] {clock(time.monotonic() - self._begin)} {heading}{shown}")

    def says(self, line: str) -> None:
        """The step has printed *line*."""
        self._last.append(line)
        self._status.update(f"{clock(time.monotonic() - self._begin)} {line[:100]}")

    def account(self) -> str:
        """The step and its last lines, for an error; a step may be a page of shell."""
        step, said = textwrap.shorten(self._step, 300, placeholder=" ..."), "\n".join(self._last)
        return f"  step: {step}\n  its last lines:\n{textwrap.indent(said, '  ')}"


def lines(text: str) -> Iterator[str]:
    """The lines of what a command has printed that say anything, without colours."""
    plain = (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines())
    return filter(None, plain)


def clock(seconds: float) -> str:
    """Minutes and seconds: `2:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
