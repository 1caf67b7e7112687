"""What role nodecheck tells each node that it must have."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from minsky.nodecheck import node as nodes
from minsky.nodecheck.check import registered
from minsky.nodecheck.node import Mount
from nodecheck import nodecheck_file, nodecheck_refusals

ROOT = Path(__file__).resolve().parents[2]
SHARED = [{"name": "shared", "type": "gluster", "mount": "/shared", "servers": ["a"]}]
IMAGE = "/shared/images/lab-x86_64.sif"
VIRTUAL = yaml.safe_load((ROOT / "playbooks/inventory/virtual/group_vars/all.yml").read_text())


def written(directory: Path, name: str, **stated) -> nodes.Node:
    """The node, as nodecheck reads it from the file that the role writes."""
    (directory / "nodecheck.yml").write_text(yaml.safe_dump(nodecheck_file(name, SHARED, [IMAGE], **stated)))
    if name != "none":
        shutil.copy(ROOT / "slurm" / "classes" / f"{name}.yml", directory)
    return nodes.read(directory / "nodecheck.yml", None)


def test_a_node_without_gpus_must_have_the_file_systems_and_start_a_container(tmp_path):
    node = written(tmp_path, "none", smt=0, clocks="", skip={})
    assert node.node_class is None
    assert node.mounts == {"/shared": Mount("fuse.glusterfs")}
    assert shlex.split(node.container)[-2:] == [IMAGE, "true"]


def test_a_node_of_a_class_is_compared_with_the_file_beside(tmp_path):
    node = written(tmp_path, "minsky-p100", smt=8, clocks="715,1328", memory_mib=500000, skip={"time": "no"})
    assert node.node_class
    assert len(node.node_class.gpus) == 4
    stated = (node.smt, node.clocks, node.memory_mib, node.skip)
    assert stated == (8, "715,1328", 500000, {"time": "no"})


def test_where_no_image_is_staged_none_is_started_and_of_several_the_plain_one():
    assert "container" not in nodecheck_file("none", SHARED, [])
    cuda = "/shared/images/lab-x86_64-cuda.sif"
    assert nodecheck_file("none", SHARED, [cuda, IMAGE])["container"].endswith(f" {IMAGE} true")
    assert nodecheck_file("none", SHARED, [cuda])["container"].endswith(f" {cuda} true")


def left(node: nodes.Node) -> set[str]:
    return {
        name
        for name, check in registered().items()
        if not (check.measures or name in node.skip or check.applies(node))
    }


def test_a_virtual_node_skips_what_it_has_from_its_host_and_is_checked_for_the_rest(tmp_path):
    plain = written(tmp_path, "none", skip=VIRTUAL["nodecheck_skip"])
    assert left(plain) == {"memory", "mount", "munge", "container"}
    posed = written(tmp_path, "ac922-4gpu", skip=VIRTUAL["nodecheck_skip"])
    assert left(posed) == left(plain) | {
        "driver", "gpus", "nvlinks", "ecc", "throttling", "persistence", "pcie", "gpu-memory",
        "processors", "smt", "numa", "gpu-numa",
    }  # fmt: skip


@pytest.mark.parametrize(
    "stated", [{}, VIRTUAL, {"nodecheck_skip": None}, {"nodecheck_clocks": "715,1328", "nodecheck_smt": 8}]
)
def test_what_nodecheck_knows_is_accepted(stated):
    assert nodecheck_refusals(["n1"], {"n1": stated}) == []


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"nodecheck_skip": {"tiem": "no clock"}}, "names tiem, which is no check. Did you mean time?"),
        ({"nodecheck_skip": {"time": ""}}, "no reason for time"),
        ({"nodecheck_skip": {"time": None}}, "no reason for time"),
        ({"nodecheck_clocks": "715"}, 'Put, say, "715,1328"'),
        ({"nodecheck_smt": -1}, "nodecheck_smt is -1"),
        ({"nodecheck_memory_mb": -1}, "nodecheck_memory_mb is -1"),
    ],
)
def test_what_it_would_refuse_is_refused_before_anything_changes(stated, words):
    said = nodecheck_refusals(["n1", "n2", "n3"], {"n1": stated, "n2": {}, "n3": stated})
    assert len(said) == 1
    assert words in said[0]
    assert said[0].endswith("(n1, n3)")


def test_a_node_is_judged_after_all_that_it_is_judged_by_and_before_slurm():
    plays = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    order = [role for play in plays for role in play.get("roles", [])]
    before = order[: order.index("nodecheck")]
    assert {"munge", "apptainer", "staging"} <= set(before)
    assert "slurm" not in before
    tasks = [
        task["name"] for task in yaml.safe_load((ROOT / "playbooks/roles/slurm/tasks/node.yml").read_text())
    ]
    assert tasks.index("See that the node is fit, before it takes jobs") < tasks.index("Run it")
