"""Curves of a training as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit.goal import Goal

INK, GRID, BLUE, ORANGE, RED = "#33363b", "#e4e6ea", "#2a6fbb", "#d9731a", "#c23b3b"


def curves(file: Path, title: str, history: dict[str, Any], goal: Goal) -> None:
    """Draw the loss and the measure of *goal* over steps to *file*.

    *history* has both for each step's global batch, and test: pairs of step and measure on test data.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2)
    for axes, label in ((left, "loss"), (right, goal.measure)):
        values = history[label]
        steps = np.arange(1, len(values) + 1)
        axes.plot(steps, values, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(values), color=BLUE, linewidth=1.8, label="training batches, smoothed")
        axes.set(xlabel="step", ylabel=label)
        quiet(axes)
    left.set_yscale("log")
    tests = list(zip(*history["test"], strict=True))
    right.plot(*tests, "o-", color=ORANGE, label=f"test data, last {tests[1][-1]:.4f}")
    right.axhline(goal.bound, color=INK, linewidth=1, linestyle=":", label=f"goal: {goal.word} {goal.bound}")
    trained = _smooth(history[goal.measure])
    shown = [goal.bound, *tests[1], *trained[len(trained) // 5 :]]  # not the steep beginning
    margin = 0.1 * (max(shown) - min(shown)) or 0.01
    right.set_ylim(min(shown) - margin, max(shown) + margin)
    right.legend(frameon=False)
    left.legend(frameon=False)
    figure.savefig(file)


def quiet(axes: Any) -> None:
    """Let the frame of *axes* stand back behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)


def _smooth(values: list[float], window: int = 15) -> Any:
    """Mean over the last *window* values, fewer at the beginning."""
    total = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)
