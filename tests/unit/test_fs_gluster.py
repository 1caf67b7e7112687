"""What a dispersed volume is made of, what it cannot be, and what losing a server costs."""

import json
import subprocess
from pathlib import Path

import pytest

from fs_gluster import gluster_absent, gluster_create, gluster_fixed, gluster_loss, gluster_refusals
from minsky.playbook import ansible_environment, failure

ROOT = Path(__file__).resolve().parents[2]


def volume(*servers):
    return {"name": "shared", "type": "gluster", "mount": "/shared", "servers": list(servers)}


def info(*servers, layout="1 x (2 + 1) = 3"):
    bricks = "\n".join(f"Brick{n}: {s}:/srv/bricks/shared-{n}" for n, s in enumerate(servers, 1))
    return f"Volume Name: shared\nType: Disperse\nNumber of Bricks: {layout}\nBricks:\n{bricks}\nOptions:\n"


def test_three_servers_carry_a_brick_each_and_any_may_be_lost():
    assert gluster_create(volume("a", "b", "c"), 3, 1, "/srv/bricks") == [
        *("shared", "disperse", "3", "redundancy", "1"),
        *("a:/srv/bricks/shared-0", "b:/srv/bricks/shared-1", "c:/srv/bricks/shared-2"),
    ]
    said = gluster_loss(info("a", "b", "c"), "/shared")
    assert said.startswith("/shared (GlusterFS, 2+1 bricks on 3 servers): any one server may be lost")


def test_with_two_servers_the_first_carries_two_and_the_summary_names_it():
    *words, force = gluster_create(volume("control", "node1"), 3, 1, "/srv/bricks")
    assert [brick.split(":")[0] for brick in words[-3:]] == ["control", "node1", "control"]
    assert force == "force"
    assert "control carries more than 1 of the bricks" in gluster_loss(
        info("control", "node1", "control"), "/shared"
    )


def test_a_server_with_a_brick_in_each_part_of_an_enlarged_volume_may_be_lost():
    enlarged = info(*"abcabc", layout="2 x (2 + 1) = 6")
    assert "any one server may be lost" in gluster_loss(enlarged, "/shared")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_bricks_are_distinct_whatever_the_number_of_servers(count):
    words = gluster_create(volume(*"abcdef"[:count]), 6, 2, "/srv")
    assert len({word for word in words if ":" in word}) == 6


def test_servers_count_as_absent_until_the_first_one_is_connected_to_them():
    pool = (
        "UUID\t\t\tHostname \tState\n"
        "1-2\tb        \tConnected \n3-4\tc        \tDisconnected \n5-6\told      \tConnected \n"
        "7-8\tlocalhost\tConnected \n"
    )
    assert gluster_absent(["a", "b", "c", "d"], pool) == ["c", "d"]
    assert gluster_absent(["a", "b"], pool) == []


@pytest.mark.parametrize(
    ("bricks", "redundancy", "right"), [(3, 1, True), (6, 2, True), (4, 2, False), (3, 0, False)]
)
def test_bricks_that_glusterfs_refuses_are_refused(bricks, redundancy, right):
    said = gluster_refusals([volume("a")], bricks, redundancy)
    assert said == [] if right else "more than twice as many" in said[0]


def test_a_volume_without_servers_is_refused():
    assert "has no servers" in gluster_refusals([volume()], 3, 1)[0]


@pytest.mark.parametrize("layout", ["1 x (2 + 1) = 3", "2 x (2 + 1) = 6"])
def test_a_volume_keeps_the_layout_it_was_made_with(layout):
    there = info(*"abc", layout=layout) + info(*"def", layout="1 x 3 = 3").replace("shared", "other")
    assert gluster_fixed(there, [volume("a")], 3, 1) == []
    said = gluster_fixed(there, [volume("a")], 6, 2)
    assert len(said) == 1
    assert layout in said[0]
    assert "fixed once the volume exists" in said[0]


def test_before_the_first_run_nothing_is_fixed():
    assert gluster_fixed("", [volume("a")], 6, 2) == []


@pytest.mark.parametrize(("root", "refused"), [("/no/such/bricks", True), ("/proc/bricks", False)])
def test_bricks_on_the_root_file_system_are_refused_before_anything_is_changed(tmp_path, root, refused):
    variables = {"cluster_filesystems": [volume("server")], "fs_gluster_brick_root": root}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"server": variables}}}))
    role = {"name": "fs_gluster", "tasks_from": "validate"}
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    here = ["-c", "local", "-e", "ansible_python_interpreter={{ ansible_playbook_python }}"]
    done = subprocess.run(
        ["ansible-playbook", "-i", tmp_path / "hosts.json", *here, tmp_path / "play.json"],
        cwd=ROOT, env=ansible_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert bool(done.returncode) == refused, done.stdout
    if refused:
        words = f"fs_gluster_brick_root is {root}, which on server lies on the root file system"
        assert words in failure(done.stdout)
