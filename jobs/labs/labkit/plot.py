"""Curves of a training as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

INK, GRID, BLUE, ORANGE = "#33363b", "#e4e6ea", "#2a6fbb", "#d9731a"


def curves(file: Path, title: str, history: dict[str, Any], *, floor: float) -> None:
    """Draw loss and accuracy over steps to *file*.

    *history* has loss and accuracy of each step's global batch, and test: pairs of step and accuracy.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2)
    for axes, values, label in ((left, history["loss"], "loss"), (right, history["accuracy"], "accuracy")):
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=BLUE, linewidth=1.8, label="training batches, smoothed")
        axes.set(xlabel="step", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
    left.set_yscale("log")
    tests = list(zip(*history["test"], strict=True))
    right.plot(*tests, "o-", color=ORANGE, label=f"test images, at last {tests[1][-1]:.4f}")
    right.axhline(floor, color=INK, linewidth=1, linestyle=":", label=f"floor {floor}")
    right.set_ylim(max(0.0, min(0.8, *tests[1])), 1.005)
    right.legend(frameon=False, loc="lower right")
    left.legend(frameon=False)
    figure.savefig(file)


def _smooth(values: list[float], window: int = 15) -> Any:
    """Mean over the last *window* values, fewer at the beginning."""
    total = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)
