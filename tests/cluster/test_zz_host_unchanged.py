"""The last of all tests: takes the cluster down, and looks at what it leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from minsky import snapshot

ROOT = Path(__file__).resolve().parents[2]


def test_a_snapshot_covers_what_a_guest_could_reach():
    taken = snapshot.snapshot_host()
    for section, known in {
        "sysctl": "vm/overcommit_memory",
        "interface": "lo",
        "mount": "/proc",
        "cgroup": next(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()),
    }.items():
        assert known in taken[section]


def test_make_down_leaves_sysctls_cgroups_rules_interfaces_and_mounts_as_they_were(
    cluster_booted_here, host_before
):
    if not cluster_booted_here:
        pytest.skip(
            "the cluster was up before the tests: `make down`, then `make test` compares before and after"
        )
    subprocess.run([sys.executable, "-m", "minsky.cluster", "down"], cwd=ROOT, check=True)
    after = snapshot.snapshot_host()
    before = host_before
    others = before.pop("other container"), after.pop("other container")
    if others[0] != others[1]:
        names = sorted({*others[0].values()} ^ {*others[1].values()})
        pytest.skip(
            f"other containers came or went meanwhile ({', '.join(names)}): leave Docker alone, and repeat"
        )
    assert snapshot.changes(before, after) == []
