"""The Docker daemon: the one door to it, and what is said when it is shut."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from pathlib import Path

import docker
from docker.errors import DockerException
from rich.console import Console

from minsky.errors import MinskyError
from minsky.paths import CACHE

console = Console(highlight=False, markup=False, soft_wrap=True, stderr=True)
_HOUR = 3600


@cache
def daemon() -> docker.DockerClient:
    """A client of the Docker daemon that answers.

    Raises:
        MinskyError: none does.
    """
    try:
        client = docker.from_env(timeout=_HOUR)  # a build step may be silent for minutes
        client.ping()
    except DockerException as error:
        raise MinskyError(
            f"no Docker daemon answers ({error}), and images are built by one; `make demo` installs and "
            "starts it on Debian and Ubuntu, elsewhere start Docker yourself, so that `docker info` works"
        ) from error
    return client


def require_space(directory: Path, need_gb: float, purpose: str) -> None:
    """Refuse to begin what would end with a full disk.

    Raises:
        MinskyError: fewer than *need_gb* (10^9 bytes) are free where *directory* lies.
    """
    while not directory.exists():
        directory = directory.parent
    free_gb = shutil.disk_usage(directory).free / 1e9
    if free_gb < need_gb:
        raise MinskyError(
            f"{purpose} needs {need_gb:g} GB in {directory} and {free_gb:.1f} GB are free; make room "
            "(`docker system df` shows what Docker holds) or put the cache elsewhere with MINSKY_CACHE=DIR"
        )


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
