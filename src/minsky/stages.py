"""What a long command says while it works: its stages with their seconds, and one live line."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from minsky.paths import STATE

console = Console(highlight=False, markup=False, soft_wrap=True)
LOGS = STATE / "log"
HEARTBEAT = 30  # seconds between two lines where there is no terminal


class Stages:
    """Says what each stage does, and how long each took.

    With a name the seconds are kept in `.minsky/log/stages-NAME`, too, for who comes later.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, purpose: str) -> Iterator[None]:
        """Announce a stage, and its seconds when it is over."""
        console.print(f"[{name}] {purpose}")
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - start
            console.print(f"[{name}] {self.seconds[name]:.1f} s")
            if self.name:
                LOGS.mkdir(parents=True, exist_ok=True)
                (LOGS / f"stages-{self.name}").write_text(self.table() + "\n")

    def table(self) -> str:
        """One line per stage and their sum."""
        rows = [*self.seconds.items(), ("total", sum(self.seconds.values()))]
        return "\n".join(f"  {name:<10} {seconds:7.1f} s" for name, seconds in rows)


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """Show what is going on: one changing line on a terminal, elsewhere a line every half minute."""
    if console.is_terminal:
        with console.status("") as status:
            yield lambda text: status.update(text[: console.width - 4])
        return
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > HEARTBEAT:
            last = time.monotonic()
            console.print(f"  {text}")

    yield say
