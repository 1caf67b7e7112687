"""What the nodes report, turned into Slurm's files; the files are compared whole with golden ones."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import slurm

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "slurm"
PROBE = ROOT / "playbooks" / "roles" / "slurm" / "files" / "cgroups.sh"
# per node: CPUs, sockets, cores of a socket, threads of a core, MiB
REPORTS = {
    "virtual": (2, 1, 2, 1, 24105),
    "minsky": (160, 2, 10, 8, 523264),
    "x86": (64, 2, 16, 2, 257616),
}
FOUND = "NodeName=me CPUs={} Boards=1 SocketsPerBoard={} CoresPerSocket={} ThreadsPerCore={} RealMemory={}"


def host(report: str, cgroup: str = "v1 swap=yes", name: str | None = None, **stated: int) -> dict:
    facts = {"ansible_facts": {"hostname": name}} if name else {}
    return {
        "__slurm_probe": {"stdout": f"{FOUND.format(*REPORTS[report])}\nUpTime=0-01:02:03\ncgroup={cgroup}"},
        **facts,
        **stated,
    }


CLUSTERS = {
    "virtual": {f"node{n}": host("virtual", slurm_node_memory_mb=4096) for n in (1, 2, 3)},
    "rack": {f"m{n:02}.site": host("minsky", "v2 swap=no") for n in range(1, 17)}
    | {f"x{n}.site": host("x86", "v2 swap=no") for n in (9, 10, 11)},
    "unenforced": {
        "node1": host("virtual"),
        "node2": host("virtual", "none /sys/fs/cgroup/memory is missing or read-only"),
    },
}
TEMPLATES = sorted(path.name.removesuffix(".j2") for path in (ROOT / "slurm").glob("*.j2"))


def render(name: str, nodes: dict) -> str:
    # as Ansible does
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(ROOT / "slurm"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.j2").render(
        cluster_name="minsky",
        groups={"slurmdbd": ["control"]},
        inventory_hostname_short="control",
        slurmdbd_purge_months=12,
        slurm_node_timeout_s=120,
        slurm_max_time="7-00:00:00",
        slurm_extra={"MaxJobCount": 5000},
        _slurm_controller="control",
        _slurm_nodes=slurm.slurm_nodes(nodes, nodes),
        _slurm_cgroup=slurm.slurm_cgroup(nodes, nodes),
    )


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_file_of_slurms_renders_to_its_golden_file(name, cluster):
    depends_on_nodes = name in {"slurm.conf", "cgroup.conf"}
    text = render(name, CLUSTERS[cluster])
    golden = GOLDEN / (f"{cluster}.{name}" if depends_on_nodes else name)
    assert golden.exists(), f"no golden file; after reading it, keep this as {golden}:\n{text}"
    assert text == golden.read_text()


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["node1"], "node1"),
        (["node3", "node1", "node2"], "node[1-3]"),
        (["n8", "n9", "n10", "n12"], "n[8-10,12]"),
        (["m08", "m09", "m10"], "m[08-10]"),
        (["n9", "n010"], "n[9,010]"),
        (["login", "r1n1", "r1n2", "r2n1"], "login,r1n[1-2],r2n1"),
    ],
)
def test_names_fold_into_slurms_notation_in_natural_order(names, folded):
    assert slurm.hostlist(names) == folded


def test_equal_machines_share_a_line_though_their_kernels_differ_by_a_few_mib():
    nodes = {"a1": host("minsky"), "a2": host("minsky")}
    nodes["a2"]["__slurm_probe"]["stdout"] = nodes["a2"]["__slurm_probe"]["stdout"].replace(
        "523264", "523260"
    )
    assert len(slurm.slurm_nodes(nodes, nodes)["lines"]) == 1


def test_what_the_inventory_states_of_a_node_outranks_what_it_reports():
    nodes = {"a": host("minsky", slurm_node_cpus=20, slurm_node_memory_mb=1000)}
    expected = "NodeName=a CPUs=20 Sockets=1 CoresPerSocket=20 ThreadsPerCore=1 RealMemory=1000"
    assert slurm.slurm_nodes(nodes, nodes) == {"lines": [expected], "mem_per_cpu": 50}


def test_a_node_that_reports_nothing_keeps_its_line_if_the_inventory_states_it():
    nodes = {"a": {"slurm_node_cpus": 4, "slurm_node_memory_mb": 1024}, "b": host("virtual")}
    assert slurm.slurm_nodes(nodes, nodes)["lines"][0].startswith("NodeName=a CPUs=4 ")


def test_the_summary_names_the_nodes_whose_limits_nobody_knows():
    nodes = {"n1": {}, "n2": host("virtual"), "n3": {}}
    said = "limits on cores, memory and devices are enforced (cgroup v1)"
    assert slurm.slurm_cgroup(["n2"], nodes)["summary"] == said
    chosen = slurm.slurm_cgroup(nodes, nodes)
    assert chosen["summary"] == said, "what stands in slurm.conf must not change with the nodes left out"
    assert chosen["unknown"] == "; nothing is known of n[1,3], which did not report"
    nodes["n2"] = host("virtual", "none no memory controller")
    chosen = slurm.slurm_cgroup(nodes, nodes)
    assert chosen["summary"].endswith("n2: no memory controller)")
    assert "n[1,3]" in chosen["unknown"]


def test_a_node_of_which_nothing_is_known_stops_the_run():
    with pytest.raises(AnsibleFilterError, match=r"hardware of a.*--limit"):
        slurm.slurm_nodes(["a"], {"a": {}})
    with pytest.raises(AnsibleFilterError, match="--limit"):
        slurm.slurm_cgroup(["a"], {"a": {}})


@pytest.mark.parametrize("group", ["slurm_controller", "slurm_node", "slurmdbd"])
def test_a_host_that_calls_itself_otherwise_is_refused(group):
    groups = {"slurm_controller": ["c"], "slurm_node": ["n"]} | {group: ["m01.site"]}
    facts = {name: host("minsky", name=name) for name in ("c", "n")}
    assert slurm.slurm_refusals(groups, facts | {"m01.site": host("minsky", name="m01")}, "60") == []
    said = slurm.slurm_refusals(groups, facts | {"m01.site": host("minsky", name="localhost")}, "60")
    assert len(said) == 1
    assert "m01.site calls itself localhost" in said[0]
    assert said[0].endswith("hostnamectl set-hostname m01")


def test_nodes_with_either_version_of_cgroups_leave_the_choice_to_slurmd():
    nodes = {"a": host("x86", "v1 swap=yes"), "b": host("x86", "v2 swap=yes")}
    chosen = slurm.slurm_cgroup(nodes, nodes)
    assert (chosen["plugin"], chosen["swap"], chosen["enforced"]) == ("autodetect", "yes", True)


SINFO = """\
n1 idle root none
n2 mixed- root none
n3 idle* root none
n4 drained root disk smells
n5 inval slurm(64030) Low RealMemory (reported:1 < 100.00% of configured:2)
n6 drained slurm(64030) Low RealMemory (reported:1 < 100.00% of configured:2)
n7 drained alice(1001) Low on screws
n8 down slurm(64030) Not responding
n9 drained slurm(64030) gres/gpu count reported lower than configured (2 < 4)
"""


def test_a_drained_node_is_ready_and_a_silent_or_unfit_one_is_not():
    names = [f"n{n}.site" for n in range(1, 11)]
    assert slurm.slurm_unready(SINFO, names) == ["n3 idle*", "n5 inval", "n8 down", "n10 unknown"]


def test_only_what_slurm_drained_for_missing_hardware_is_taken_back():
    assert slurm.slurm_mended(SINFO) == "n[6,9]"


def test_an_inventory_that_slurm_can_be_made_of_is_accepted():
    groups = {"slurm_controller": ["c"], "slurm_node": ["n"]}
    for limit in ("60", "1:30:00", "7-00:00:00", "2-12", "UNLIMITED"):
        assert slurm.slurm_refusals(groups, {"c": {}, "n": {}}, limit) == []


@pytest.mark.parametrize(
    ("groups", "stated", "limit", "words"),
    [
        ({"slurm_controller": ["c", "d"], "slurm_node": ["n"]}, {}, "60", "holds 2 hosts"),
        ({"slurm_controller": ["c"]}, {}, "60", "slurm_node 0"),
        (None, {}, 5400, "Quote it"),
        (None, {}, "two days", "Quote it"),
        (None, {"slurm_node_cpus": -1}, "60", "n is said to have -1 CPUs"),
        (None, {"slurm_node_memory_mb": 64}, "60", "64 MiB"),
    ],
)
def test_what_slurm_cannot_be_made_of_is_refused_in_a_sentence(groups, stated, limit, words):
    groups = groups or {"slurm_controller": ["c"], "slurm_node": ["n"]}
    said = slurm.slurm_refusals(groups, {"c": {}, "d": {}, "n": stated}, limit)
    assert len(said) == 1
    assert words in said[0]


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {f"{name}/cgroup.procs": "" for name in ("cpuset", "memory", "devices", "freezer")}
V2 = {"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": ""}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (V1, "cgroup=v1 swap=no"),
        (V1 | {"memory/memory.memsw.limit_in_bytes": ""}, "cgroup=v1 swap=yes"),
        (
            {name: "" for name in V1 if "freezer" not in name},
            "cgroup=none {root}/freezer is missing or read-only",
        ),
        (V2, "cgroup=v2 swap=no"),
        (V2 | {"init.scope/memory.swap.max": ""}, "cgroup=v2 swap=yes"),
        (
            V2 | {"cgroup.controllers": "cpu io\n"},
            "cgroup=none controller cpuset is missing in {root}/cgroup.controllers",
        ),
        ({}, "cgroup=none {root}/cpuset is missing or read-only"),
    ],
)
def test_a_node_says_what_its_cgroups_allow(tmp_path, files, said):
    root = tree(tmp_path, files)
    assert subprocess.check_output(["sh", PROBE, root], text=True).strip() == said.format(root=root)


def test_cgroups_that_cannot_be_written_are_not_enforced():
    nobody = 65534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder), V1)
        for path in root.rglob("*"):
            path.chmod(0o777)
        root.chmod(0o755)
        (root / "memory").chmod(0o555)
        said = subprocess.check_output(
            ["sh", "-s", root], input=PROBE.read_text(), text=True, user=nobody, cwd="/"
        )
    assert said == f"cgroup=none {root}/memory is missing or read-only\n"
