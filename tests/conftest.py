"""What all tests share: where the checkout is, and which inventory the cluster tests look at."""

from pathlib import Path

import pytest

from minsky.virtual import INVENTORY

ROOT = Path(__file__).resolve().parents[1]
collect_ignore = ["smoke"]  # which tests nodes, not this tree: who means it names it (pytest tests/smoke)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--inventory",
        type=Path,
        default=INVENTORY.parent,
        help="Ansible inventory of the cluster to test (default: the virtual cluster, booted if none runs)",
    )
    parser.addoption("--long", action="store_true", help="also what takes tens of minutes: CUDA, rebuilds")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(
    params=sorted(path.name.removesuffix("_horovod.sh") for path in ROOT.glob("jobs/*_horovod.sh"))
)
def lab(request: pytest.FixtureRequest) -> str:
    """The name of each lab in turn: whatever has a job script."""
    return str(request.param)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Images first, since setting up emulation changes the host; what takes the cluster down comes last."""
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    order = {"images": -1, "test_posed.py": 1, "test_zz_host_unchanged.py": 2}
    items.sort(key=lambda item: order.get(item.path.parent.name, 0) + order.get(item.path.name, 0))
