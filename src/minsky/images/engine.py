"""What the steps of making an image share: Docker, a lock, and what they say while they work."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

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


def clock(seconds: float) -> str:
    """Minutes and seconds: `2:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
