"""What all tests share: where the checkout is, and which inventory the cluster tests look at."""

from pathlib import Path

import pytest

from minsky.virtual import INVENTORY

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--inventory",
        type=Path,
        default=INVENTORY.parent,
        help="Ansible inventory of the cluster to test (default: the virtual cluster, booted if none runs)",
    )


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
