"""What the points of a sweep reached, as one table and one figure: `python -m labs.labkit.sweep DIRECTORY`.

A point is a directory of results below it, named by the options that are its own.
"""

import json
import sys
from pathlib import Path
from typing import Any

from labs.labkit import LabError
from labs.labkit.plot import GRID, INK
from labs.labkit.result import write_json


def points(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the results below *directory* by the names of their points, in the order of numbers and words.

    Raises:
        LabError: there is none.
    """
    files = sorted(directory.glob("*/result.json"), key=lambda file: _key(file.parent.name))
    if not files:
        raise LabError(
            f"no point of the sweep {directory} has a result yet: its jobs failed or still run, and their "
            "outputs, beside it, say why",
        )
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def _key(name: str) -> list[tuple[int, float, str]]:
    """Sort 0.003 before 0.01, and 50 before 200."""
    parts = name.replace("=", "_").split("_")
    return [(0, float(part), "") if part.replace(".", "", 1).isdigit() else (1, 0.0, part) for part in parts]


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line per point: what it reached, whether that is its lab's goal, how long it took."""
    measure = next(iter(found.values()))["goal"]["measure"]
    width = max(map(len, found))
    lines = [f"{'point':<{width}}  {measure:>12}  {'goal':<12} {'seconds':>8} {'start':>6}"]
    for name, result in found.items():
        value, verdict = "diverged", ""
        if not result.get("diverged"):
            value, verdict = (
                f"{result[measure]:.6g}",
                "reached" if result["goal"]["reached"] else "not reached",
            )
        lines.append(
            f"{name:<{width}}  {value:>12}  {verdict:<12} {result['seconds']:8.1f} {result['startup_s']:6.1f}"
        )
    return lines


def draw(file: Path, title: str, found: dict[str, dict[str, Any]]) -> None:
    """Draw the loss of each point over its epochs, and beside it what each reached."""
    from matplotlib import colormaps  # noqa: PLC0415 - not where a table is all that is wanted
    from matplotlib.figure import Figure  # noqa: PLC0415

    measure = next(iter(found.values()))["goal"]["measure"]
    figure = Figure(figsize=(11, 4.5), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2)
    colours = colormaps["viridis"].resampled(len(found) + 1)
    for place, (name, result) in enumerate(found.items()):
        losses = result["history"]["loss"]
        epochs = [(n + 1) * result["epochs"] / result["steps"] for n in range(len(losses))]
        left.plot(epochs, losses, color=colours(place), linewidth=1.2, label=name)
        if not result.get("diverged"):
            right.plot(result[measure], place, "o", color=colours(place))
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel=measure)
    right.set_yticks(
        range(len(found)), [f"{n}{' (diverged)' * r.get('diverged', False)}" for n, r in found.items()]
    )
    right.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=8)
    figure.savefig(file)


def main() -> int:
    """Print the table, draw the figure, tell the RESULT."""
    directory = Path(sys.argv[1]).absolute()
    try:
        found = points(directory)
    except LabError as error:
        print(f"minsky: {error}", file=sys.stderr)
        return 1
    first = next(iter(found.values()))
    print("\n".join(table(found)))
    seconds, start = (sum(result[key] for result in found.values()) for key in ("seconds", "startup_s"))
    print(f"{len(found)} points, {seconds:.0f} s in all, {start / seconds:.0%} of that before the first step")
    draw(directory / "sweep.png", f"{directory.name}: {first['lab']} on {first['data']}", found)
    told = {
        "lab": f"sweeps/{directory.name}",
        "data": first["data"],
        "points": {name: result[first["goal"]["measure"]] for name, result in found.items()},
        "measure": first["goal"]["measure"],
        "seconds": round(seconds, 1),
        "startup_s": round(start, 1),
        "plot": str(directory / "sweep.png"),
    }
    write_json(directory / "sweep.json", told)
    print(f"RESULT {json.dumps(told)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
