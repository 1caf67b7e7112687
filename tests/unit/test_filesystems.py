"""Where the bricks of a dispersed volume go, and what losing a server costs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "playbooks" / "filter_plugins"))

from filesystems import gluster_bricks, gluster_loss


def volume(*servers):
    return {"name": "shared", "mount": "/shared", "servers": list(servers)}


def test_three_servers_carry_a_brick_each_and_any_may_be_lost():
    assert gluster_bricks(volume("a", "b", "c"), 3, "/srv/bricks") == [
        "a:/srv/bricks/shared-0",
        "b:/srv/bricks/shared-1",
        "c:/srv/bricks/shared-2",
    ]
    assert "any one server may be lost" in gluster_loss(volume("a", "b", "c"), 3, 1)


def test_with_two_servers_the_first_carries_two_and_the_summary_names_it():
    bricks = gluster_bricks(volume("control", "node1"), 3, "/srv/bricks")
    assert [brick.split(":")[0] for brick in bricks] == ["control", "node1", "control"]
    assert "control carries more than 1 of the bricks" in gluster_loss(volume("control", "node1"), 3, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_bricks_are_distinct_whatever_the_number_of_servers(count):
    bricks = gluster_bricks(volume(*"abcdef"[:count]), 6, "/srv")
    assert len(set(bricks)) == 6
