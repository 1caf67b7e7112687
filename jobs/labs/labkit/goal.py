"""What a lab must reach."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """With default settings *measure* is at least, or at most, *bound*; *source*: of what, why so much."""

    measure: str
    word: Literal["at least", "at most"]
    bound: float
    source: str

    def reached(self, value: float | None) -> bool:
        """Whether *value* is good enough; None, where training diverged, is not."""
        if value is None:
            return False
        return value >= self.bound if self.word == "at least" else value <= self.bound

    def verdict(self, value: float | None) -> str:
        """Return *value* beside the bound, in words."""
        if value is None:
            return f"none, since training diverged; {self.word} {self.bound} ({self.source}): NOT REACHED"
        verdict = "reached" if self.reached(value) else "NOT REACHED"
        shown = f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"  # noqa: PLR2004
        return f"{shown}; with default settings {self.word} {self.bound} ({self.source}): {verdict}"

    def told(self, value: float | None) -> dict[str, Any]:
        """Return the goal as a RESULT tells it, with the verdict on *value*."""
        bound = {self.word.replace(" ", "_"): self.bound}
        return {"measure": self.measure, **bound, "source": self.source, "reached": self.reached(value)}
