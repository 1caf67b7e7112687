"""How a lab's speed grows with ranks: the runs of a study, and what they say. Used by jobs/scaling.sh.

Strong scaling keeps the global batch, so that each of N ranks computes 1/N of it; weak scaling keeps each
rank's share. The limit is that of a step which computes, then sums the lab's gradients in the time that takes
alone: what is hidden behind the computation is gained, and what ranks wait for each other is lost.
"""

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import LabError, options
from labs.labkit.plot import BLUE, GRID, INK, ORANGE
from labs.labkit.result import write_json

STEPS = 40  # of each run; the first is not counted
LABS = Path(__file__).parents[1]


def runs(lab: str, ranks: list[int], batch: int | None) -> list[str]:
    """Return the runs of a study, in one word each: mode, ranks, and the options of the lab.

    Raises:
        LabError: there is no such lab, or none whose batch can be chosen; the batch does not divide.
    """
    known = sorted(path.stem for path in LABS.glob("[!_]*.py"))
    if lab not in known:
        raise LabError(f"there is no lab {lab!r}; the labs are {', '.join(known)}")
    knobs = vars(importlib.import_module(f"labs.{lab}").knobs().parse_args([]))
    if not {"batch_size", "global_batch_size"} <= knobs.keys():
        raise LabError(f"the lab {lab} has no batch that could be divided or grow: study another one")
    multiple = math.lcm(*ranks)
    batch = batch or multiple * round(knobs["batch_size"] / multiple + 0.5)
    if batch % multiple:
        raise LabError(
            f"a global batch of {batch} does not divide among each of {ranks} ranks: use --batch "
            f"{max(multiple, batch - batch % multiple)}",
        )
    ones = [f"weak {n} --batch-size {batch} --steps {STEPS}" for n in ranks]
    return [*ones, *(f"strong {n} --global-batch-size {batch} --steps {STEPS}" for n in ranks if n > 1)]


def numbers(text: str) -> list[int]:
    """Argument type: whole numbers with commas between them, and 1, which the others are held to."""
    return sorted({1, *(options.whole(1)(part) for part in text.split(","))})


def allreduce_seconds(printed: str, size: int) -> float:
    """Seconds of one all-reduce of *size* bytes, by what `python -m allreduce` *printed*, interpolated."""
    rows = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    sizes = [int(row[0]) for row in rows]
    seconds = [float(row[1]) / 1e6 for row in rows]
    if size >= sizes[-1]:
        return seconds[-1] * size / sizes[-1]
    return float(np.interp(size, sizes, seconds))


def study(directory: Path) -> list[dict[str, Any]]:
    """Return a row per run below *directory*: mode, ranks, seconds per step, rate, efficiency, limit.

    Efficiency is the speed per rank of N ranks, over that of the fewest; the limit is an efficiency, too.
    """
    results = {file.parent.name: json.loads(file.read_text()) for file in directory.glob("*/result.json")}
    fewest = min(int(name.split("-")[1]) for name in results)
    base = results[f"weak-{fewest}"]
    step = base["step_s"]
    rows = []
    for name, result in results.items():
        mode, count = name.split("-")[0], int(name.split("-")[1])
        seconds = result["step_s"]
        reduced = 0.0
        if count > 1:
            reduced = allreduce_seconds(
                (directory / f"allreduce-{count}.txt").read_text(), result["gradient_bytes"]
            )
        ideal = step * fewest / count if mode == "strong" else step
        rows.append(
            {
                "mode": mode,
                "ranks": count,
                "step_s": seconds,
                "rate": result["global_batch_size"] / seconds,
                "efficiency": ideal / seconds,
                "limit": ideal / (ideal + reduced),
                "allreduce_s": seconds
                * result["allreduce_s"]
                / (result["computation_s"] + result["allreduce_s"]),
                "alone_s": reduced,
                "note": result["note"],
            }
        )
    strong = [row for row in rows if row["mode"] == "strong"]
    one = next(row for row in rows if row["mode"] == "weak" and row["ranks"] == fewest)
    strong.append(one | {"mode": "strong"})  # one rank, or the fewest: both studies begin there
    return sorted([*strong, *(r for r in rows if r["mode"] == "weak")], key=lambda r: (r["mode"], r["ranks"]))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the study as lines."""
    head = (
        "scaling",
        "ranks",
        "ms/step",
        "samples/s",
        "efficiency",
        "limit",
        "waiting ms",
        "all-reduce alone ms",
    )
    lines = ["  ".join(head)]
    for row in rows:
        cells = (
            row["mode"], row["ranks"], f"{1e3 * row['step_s']:.1f}", f"{row['rate']:,.0f}",
            f"{row['efficiency']:.2f}", f"{row['limit']:.2f}", f"{1e3 * row['allreduce_s']:.1f}",
            f"{1e3 * row['alone_s']:.1f}",
        )  # fmt: skip
        lines.append("  ".join(f"{cell:>{len(word)}}" for cell, word in zip(cells, head, strict=True)))
    return lines


def draw(file: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """Draw rate and efficiency over ranks, with what is ideal and the limit."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - as in plot.py

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2)
    for mode, colour in (("strong", BLUE), ("weak", ORANGE)):
        mine = [row for row in rows if row["mode"] == mode]
        counts = [row["ranks"] for row in mine]
        left.plot(counts, [row["rate"] for row in mine], "o-", color=colour, label=mode)
        right.plot(counts, [row["efficiency"] for row in mine], "o-", color=colour, label=mode)
        right.plot(counts, [row["limit"] for row in mine], ":", color=colour, label=f"{mode}: limit")
    counts = sorted({row["ranks"] for row in rows})
    left.plot(
        counts, [rows[0]["rate"] * n / counts[0] for n in counts], "--", color=INK, linewidth=1, label="ideal"
    )
    right.axhline(1, color=INK, linestyle="--", linewidth=1)
    left.set(xlabel="ranks", ylabel="samples/s", ylim=(0, None))
    right.set(xlabel="ranks", ylabel="efficiency", ylim=(0, 1.1))
    for axes in (left, right):
        axes.set_xticks(counts)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.legend(frameon=False)
    figure.savefig(file)


def main() -> int:
    """Print what is to be run, or what came of it."""
    parser = options.Parser("scaling", "How the speed of a lab grows with ranks.")
    add = parser.add_argument
    add("--lab", required=True, help="the lab")
    add("--ranks", type=numbers, required=True, help="numbers of ranks, with commas: 1,2,4")
    add("--batch", type=options.whole(1), help="samples per step, of all ranks or of each")
    add("--report", type=Path, metavar="DIRECTORY", help="tell what came of the runs, instead of which to do")
    given = parser.parse_args()
    try:
        if given.report:
            report(given.report.absolute())
        else:
            print("\n".join(runs(given.lab, given.ranks, given.batch)))
    except LabError as error:
        print(f"minsky: {error}", file=sys.stderr)
        return 1
    return 0


def report(directory: Path) -> None:
    """Print the table and the RESULT, draw the figure."""
    rows = study(directory)
    first = json.loads(next(directory.glob("weak-*/result.json")).read_text())
    print("\n".join(table(rows)))
    for note in sorted({row["note"] for row in rows} - {""}):
        print(f"  note  {note}")
    draw(directory / "scaling.png", f"{first['lab']} on {first['data']}", rows)
    told = {
        "lab": f"scaling/{first['lab']}",
        "data": first["data"],
        "rows": rows,
        "plot": str(directory / "scaling.png"),
    }
    write_json(directory / "scaling.json", told)
    print(f"RESULT {json.dumps(told)}")


if __name__ == "__main__":
    sys.exit(main())
