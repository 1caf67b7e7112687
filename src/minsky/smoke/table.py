"""Smoke tests as a table: a row for each check, a column for nodes that agree in all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING
from minsky.smoke import Report, checks, fold, title

if TYPE_CHECKING:
    from minsky.nodecheck.run import Result

STYLES = {OK: "green", WARNING: "yellow", FAILED: "bold red", SKIPPED: "dim"}


def table(reports: list[Report]) -> Table:
    """Return the table of *reports*; a cell that is not ok says what to do."""
    columns = fold(reports)
    told = checks(reports, OK, WARNING, FAILED)
    nowhere: dict[str, dict[str, None]] = {}  # reason: checks that are skipped on every node
    for each in (each for report in reports for each in report.results if each.name not in told):
        nowhere.setdefault(each.found, {})[each.name] = None
    skipped = "; ".join(f"{', '.join(names)} ({why})" for why, names in nowhere.items())
    made = Table(
        title=title(reports), title_justify="left", caption_justify="left", min_width=76,
        caption=Text(f"skipped: {skipped}") if skipped else None,
    )  # fmt: skip
    made.add_column("check", no_wrap=True)
    for name, _ in columns:
        made.add_column(name, overflow="fold")
    for name in told:
        cells = [{each.name: each for each in report.results}.get(name) for _, report in columns]
        made.add_row(Text(name), *(_cell(each) if each else "" for each in cells))
    return made


def _cell(result: Result) -> Text:
    word = "FAILED" if result.verdict == FAILED else result.verdict
    said = f"{word} {result.found}\ndo: {result.do}" if result.do else word
    return Text(said, STYLES[result.verdict])
