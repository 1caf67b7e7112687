"""Reads the RESULT lines of jobs and shows them: `python -m minsky.report OUTPUT...`."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from minsky.errors import MinskyError, speak_plainly

MARK = "RESULT "


def results(output: str) -> list[dict[str, Any]]:
    """Return what the RESULT lines of a job's *output* say, in order.

    Raises:
        MinskyError: a line begins like one, and cannot be read.
    """
    found = []
    for line in output.splitlines():
        if line.startswith(MARK):
            try:
                found.append(json.loads(line.removeprefix(MARK)))
            except json.JSONDecodeError as error:
                raise MinskyError(
                    f"this RESULT line is no JSON ({error}): {line[:80]}; was the job cut off?",
                ) from error
    return found


def summarise(result: dict[str, Any]) -> Table:
    """Return a lab's *result* as a small table: the accuracy beside its floor, the speed, the files."""
    table = Table(title=f"{result['lab']} on {result['data']}", show_header=False, title_justify="left")
    reached = result["accuracy"] >= result["floor"]
    verdict = f"[{'green]reaches' if reached else 'red]below'} its floor {result['floor']}[/]"
    rows = {
        "accuracy": f"{result['accuracy']:.4f}  {verdict}",
        "images/s": "{images_per_s_per_rank:,.0f} per rank, {images_per_s:,.0f} in total".format(**result),
        "ranks": f"{result['ranks']} on {result['nodes']} node(s), {result['threads']} thread(s) each",
        "seconds": f"{result['seconds']:.1f}",
        "results": result["results"],
        "plot": result["plot"],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def main() -> int:
    """Show the results in the job outputs that the command line names."""
    for file in map(Path, sys.argv[1:]):
        found = results(file.read_text())
        if not found:
            raise MinskyError(
                f"{file} has no RESULT line: the job failed or still runs; its last lines say why"
            )
        for result in found:
            Console().print(summarise(result))
    return 0


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
