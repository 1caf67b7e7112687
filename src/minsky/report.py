"""Reads the RESULT lines of jobs and shows them as tables."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from minsky.errors import MinskyError, speak_plainly

MARK = "RESULT "
EXAMPLES = """examples:
  python -m minsky.report cnn-17.out      what job 17 reached, beside its goal
  python -m minsky.report cnn-*.out       one table per job
"""


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
    """Return a lab's *result* as a small table: the rows that the lab printed, the verdict in colour."""
    table = Table(title=f"{result['lab']} on {result['data']}", show_header=False, title_justify="left")
    goal = result["goal"]
    verdict = "green" if goal["reached"] else "red"
    rows = result["summary"] | {name: result[name] for name in ("results", "plot", "note")}
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value, verdict if name == goal["measure"] else ""))
    return table


def main(argv: list[str] | None = None) -> int:
    """Show the results in the job outputs that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m minsky.report", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("outputs", nargs="+", type=Path, metavar="OUTPUT", help="what a job printed")
    for file in parser.parse_args(argv).outputs:
        try:
            found = results(file.read_text(errors="replace"))
        except OSError as error:
            raise MinskyError(f"{file} cannot be read ({error.strerror}): name a job's output") from error
        except MinskyError as error:
            raise MinskyError(f"{file}: {error}") from error
        if not found:
            raise MinskyError(
                f"{file} has no RESULT line: the job failed or still runs; its last lines say why"
            )
        for result in found:
            Console().print(summarise(result))
    return 0


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
