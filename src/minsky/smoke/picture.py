"""Smoke tests as a picture: a row for each node, a column for each check, words as well as colours."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minsky.errors import MinskyError
from minsky.gpus.picture import INK, KINDS
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING
from minsky.smoke import Report, checks, fold, title

if TYPE_CHECKING:
    from pathlib import Path

WORDS = {OK: "ok", WARNING: "warning", FAILED: "FAILED", SKIPPED: "skipped", "": "not told"}
# told apart by those who see no red or green, too
COLOURS = {OK: "#cfe8dd", WARNING: "#f6e3a1", FAILED: "#b5331f", SKIPPED: "#f3f5f7", "": "#d9dde2"}
WIDE, HIGH = 0.72, 0.32  # inches of a cell
MOST = 48  # nodes that have a row each; beyond, those that agree share one
SENTENCES = 12  # failures told below the grid
LINE = 0.19  # inches of a line of text


def draw(reports: list[Report], file: Path) -> None:
    """Write a picture of *reports* to *file*, whose name ends in .png or .svg.

    Raises:
        MinskyError: another ending, or a place that cannot be written to.
    """
    if file.suffix not in KINDS:
        raise MinskyError(f"--picture {file}: pictures are PNG or SVG; end the name in {' or '.join(KINDS)}")
    rows = fold(reports) if len(reports) > MOST else [(report.node, report) for report in reports]
    names = checks(reports, OK, WARNING, FAILED)
    left = 0.3 + 0.085 * max(len(name) for name, _ in rows)
    width = max(left + WIDE * len(names) + 0.9, 7.0)
    sentences = _sentences(rows, int((width - 0.4) / 0.072))
    top, bottom = 1.35, 0.25 + LINE * len(sentences)
    height = top + HIGH * len(rows) + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # inches, downwards
    axes.axis("off")
    axes.text(0.2, 0.3, title(reports), size=12, weight="bold", color=INK, va="center", parse_math=False)
    for column, name in enumerate(names):
        axes.text(
            left + WIDE * (column + 0.4), top - 0.08, name, size=8, rotation=35, color=INK, va="bottom",
            rotation_mode="anchor", parse_math=False,
        )  # fmt: skip
    for row, (label, report) in enumerate(rows):
        y = top + HIGH * row
        axes.text(
            left - 0.1, y + HIGH / 2, label, size=9, ha="right", va="center", color=INK, parse_math=False
        )
        found = {each.name: each.verdict for each in report.results}
        for column, name in enumerate(names):
            verdict, x = found.get(name, ""), left + WIDE * column
            axes.add_patch(
                Rectangle((x, y), WIDE, HIGH, facecolor=COLOURS[verdict], edgecolor="white", lw=1.5)
            )
            axes.text(
                x + WIDE / 2, y + HIGH / 2, WORDS[verdict], size=7.5, ha="center", va="center",
                color="white" if verdict == FAILED else INK, weight="bold" if verdict == FAILED else "normal",
            )  # fmt: skip
    for number, line in enumerate(sentences):
        y = top + HIGH * len(rows) + 0.22 + LINE * number
        axes.text(0.2, y, line, size=8, color=INK, va="center", parse_math=False)
    try:
        figure.savefig(file, dpi=110)
    except OSError as error:
        raise MinskyError(f"{file} cannot be written ({error.strerror}): name another place") from error


def _sentences(rows: list[tuple[str, Report]], columns: int) -> list[str]:
    """Return lines of at most *columns* characters that tell of failures and what to do."""
    failures = [
        f"{label}, {each.name}: {each.found}. Do: {each.do}"
        for label, report in rows
        for each in report.failed
    ]
    left = len(failures) - SENTENCES
    told = failures[:SENTENCES] + ([f"and {left} more"] if left > 0 else [])
    return [line for each in told for line in textwrap.wrap(each, columns, subsequent_indent="    ")]
