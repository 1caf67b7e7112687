"""The last of all tests: takes the cluster down, and looks at what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minsky import cluster, snapshot

ROOT = Path(__file__).resolve().parents[2]


def test_a_snapshot_covers_what_a_guest_could_reach(virtual, boot):
    taken = snapshot.snapshot_host()
    for section, known in {
        "sysctl": "vm/overcommit_memory",
        "interface": "lo",
        "mount": "/proc",
        "cgroup": next(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()),
    }.items():
        assert known in taken[section]


def test_make_down_leaves_sysctls_cgroups_rules_interfaces_and_mounts_as_they_were(virtual, boot):
    if not boot:
        pytest.skip("the cluster was up before these tests, and stays: `make down test` compares")
    if not snapshot.KEPT.exists():
        pytest.skip(
            f"{snapshot.KEPT} is missing, with what the host was like before the cluster: type `make down "
            "test` as a user who may run iptables-save, and repeat"
        )
    before, ours = json.loads(snapshot.KEPT.read_text()), cluster.ours().values()
    subprocess.run([sys.executable, "-m", "minsky.cluster", "down"], cwd=ROOT, check=True)
    after = snapshot.snapshot_host()
    others = before.pop("other container"), after.pop("other container")
    if others[0] != others[1]:
        names = sorted({*others[0].values()} ^ {*others[1].values()})
        pytest.skip(
            f"other containers came or went meanwhile ({', '.join(names)}): leave Docker alone, and repeat"
        )
    assert snapshot.changes(before, after, ours) == []
