"""Which nodes are tested: those of an inventory, this one, or one that was recorded."""

import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from minsky import smoke
from minsky.errors import MinskyError
from minsky.nodecheck.node import FILE
from minsky.smoke.picture import draw
from minsky.smoke.table import table
from minsky.virtual import INVENTORY

REPORTS = pytest.StashKey[list[smoke.Report]]()
NARROW = 34  # characters of a column in the table, at least
NO_NODE = (
    f"no node to test: no virtual cluster is up (make cluster), and this machine is none (it has no {FILE}). "
    "Name an inventory by --inventory, this machine's class by --class, or outputs of commands by --recorded"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smoke", "smoke tests of nodes (tests/smoke)")
    group.addoption("--class", dest="node_class", metavar="NAME", help="what this node, or the recorded, is")
    group.addoption(
        "--recorded", action="append", default=[], metavar="FILE",
        help="test a recorded output of a command; again: more outputs of the same node",
    )  # fmt: skip
    group.addoption("--job", type=Path, metavar="DIRECTORY", help="what a smoke job found: its smoke-JOB/")
    group.addoption("--measure", action="store_true", help="bandwidths, too: nobody else may use the GPUs")
    group.addoption(
        "--picture", type=Path, metavar="FILE", help="draw the results: FILE ends in .png or .svg"
    )


def pytest_collection(session: pytest.Session) -> None:
    """Ask all nodes at once: which tests there are is known by their answers."""
    try:
        session.config.stash[REPORTS] = _ask(session.config)
    except MinskyError as error:
        raise pytest.UsageError(str(error)) from error


def _ask(config: pytest.Config) -> list[smoke.Report]:
    recorded, node_class = config.getoption("--recorded"), config.getoption("node_class")
    inventory, more = config.getoption("--inventory"), ["--measure"] * config.getoption("--measure")
    chosen = inventory != INVENTORY.parent
    if config.getoption("--job"):
        return smoke.of_job(config.getoption("--job"))
    if recorded and not node_class:
        raise MinskyError("--recorded: what should the node be? Name its class by --class")
    if chosen and (recorded or node_class):
        raise MinskyError(
            "--inventory: each node's own file names its class; leave --class and --recorded out"
        )
    if recorded or (not chosen and (node_class or FILE.exists())):
        files = [word for file in recorded for word in ("--recorded", file)]
        return [smoke.here(*files, *(["--class", node_class] if node_class else []), *more)]
    if not chosen and not INVENTORY.exists():
        raise MinskyError(NO_NODE)
    return smoke.everywhere(inventory, *more)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cells = [(each, result) for each in metafunc.config.stash[REPORTS] for result in each.results]
    metafunc.parametrize("cell", cells, ids=[f"{report.node}-{result.name}" for report, result in cells])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = config.stash.get(REPORTS, [])
    if not reports:
        return
    columns = max(shutil.get_terminal_size().columns, 20 + NARROW * len(smoke.fold(reports)))
    text = StringIO()
    Console(file=text, width=columns, force_terminal=terminalreporter.hasmarkup).print(table(reports))
    terminalreporter.section("nodes")
    terminalreporter.write(text.getvalue())
    if file := config.getoption("--picture"):
        try:
            draw(reports, file)
            terminalreporter.write_line(f"picture: {file}")
        except MinskyError as error:
            terminalreporter.write_line(f"minsky: {error}", red=True)
