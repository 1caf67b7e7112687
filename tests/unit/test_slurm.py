"""What the nodes report, turned into Slurm's files; the files are compared whole with golden ones."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lupa.lua51 import LuaRuntime

import slurm

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "slurm"
PROBE = ROOT / "playbooks" / "roles" / "slurm" / "files" / "cgroups.sh"
DEFAULTS = {
    name: value
    for role in ("slurm", "slurmdbd")
    for name, value in yaml.safe_load(
        (ROOT / "playbooks" / "roles" / role / "defaults" / "main.yml").read_text()
    ).items()
}
LIMITS = {name: DEFAULTS[f"slurm_{name}"] for name in slurm.LEAST}
# per node: CPUs, sockets, cores of a socket, threads of a core, MiB
REPORTS = {
    "virtual": (2, 1, 2, 1, 24105),
    "minsky": (160, 2, 10, 8, 523264),
    "minsky-off": (20, 2, 10, 1, 523264),
    "ac922": (128, 2, 16, 4, 653312),
    "half": (80, 2, 5, 8, 523264),
    "x86": (64, 2, 16, 2, 257616),
}
FOUND = "NodeName=me CPUs={} Boards=1 SocketsPerBoard={} CoresPerSocket={} ThreadsPerCore={} RealMemory={}"


def host(report: str, cgroup: str = "v1 swap=yes", name: str | None = None, **stated: int | str) -> dict:
    facts = {"ansible_facts": {"hostname": name}} if name else {}
    return {
        "__slurm_probe": {"stdout": f"{FOUND.format(*REPORTS[report])}\nUpTime=0-01:02:03\ncgroup={cgroup}"},
        **facts,
        **stated,
    }


def gpus(report: str, node_class: str = "minsky-p100", **stated: int | str) -> dict:
    return host(report, "v2 swap=no", cluster_node_class=node_class, **stated)


CLUSTERS = {
    "virtual": {f"node{n}": host("virtual", slurm_node_memory_mb=4096) for n in (1, 2, 3)},
    "minsky": {f"m{n:02}.site": gpus("minsky") for n in range(1, 17)},
    "rack": {f"m{n:02}.site": gpus("minsky") for n in range(1, 5)}
    | {f"p{n}.site": gpus("ac922", "ac922-4gpu", slurm_node_memory_mb=500000) for n in (1, 2)}
    | {f"x{n}.site": host("x86", "v2 swap=no") for n in (9, 10, 11)},
    "posed": {
        f"node{n}": gpus("virtual", slurm_node_memory_mb=4096, slurm_simulated_hardware=True)
        for n in (1, 2, 3)
    },
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
    described = slurm.slurm_nodes(nodes, nodes)
    set_by_a_site = {"slurmdbd_purge_months": 12, "slurm_extra": {"MaxJobCount": 5000}}
    return environment.get_template(f"{name}.j2").render(
        DEFAULTS
        | set_by_a_site
        | {
            "cluster_name": "minsky",
            "groups": {"slurmdbd": ["control"]},
            "inventory_hostname_short": "control",
            "_slurm_controller": "control",
            "_slurm_nodes": described,
            "_slurm_job_submit": described["cpus_per_gpu"] > 0,
            "_slurm_cgroup": slurm.slurm_cgroup(nodes, nodes),
        }
    )


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_file_of_slurms_renders_to_its_golden_file(name, cluster):
    depends_on_nodes = name in {"slurm.conf", "gres.conf", "cgroup.conf"}
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
        (["1a", "2a", "n1", "n2"], "1a,2a,n[1-2]"),
        ([], ""),
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
    described = slurm.slurm_nodes(nodes, nodes)
    assert (described["lines"], described["mem_per_cpu"]) == ([expected], 50)


def test_a_node_that_reports_nothing_keeps_its_line_if_the_inventory_states_it():
    nodes = {"a": {"slurm_node_cpus": 4, "slurm_node_memory_mb": 1024}, "b": host("virtual")}
    assert slurm.slurm_nodes(nodes, nodes)["lines"][0].startswith("NodeName=a CPUs=4 ")


def test_a_minsky_has_the_same_gpus_and_cores_with_any_smt():
    lines = [slurm.slurm_nodes(["m"], {"m": gpus(report)})["gres"] for report in ("minsky", "minsky-off")]
    assert lines[0] == lines[1]
    assert [re.search(r"Cores=(\S+) Links=(\S+)", line).groups() for line in lines[0]] == [
        ("0-9", "-1,2,0,0"), ("0-9", "2,-1,0,0"), ("10-19", "0,0,-1,2"), ("10-19", "0,0,2,-1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "cpus"),
    [
        ({"a": gpus("minsky")}, 40),
        ({"a": gpus("minsky-off")}, 5),
        ({"a": gpus("minsky", "minsky-p100-2gpu")}, 40),  # the other socket is far from both
        ({"a": gpus("minsky"), "b": gpus("minsky-off")}, 5),
        ({"a": gpus("ac922", "ac922-6gpu", slurm_node_memory_mb=500000)}, 20),  # whole cores: 5 of 4 threads
        ({"a": host("x86")}, 0),
    ],
)
def test_a_gpu_brings_what_every_node_can_give_from_its_socket(nodes, cpus):
    assert slurm.slurm_nodes(nodes, nodes)["cpus_per_gpu"] == cpus


def test_a_node_without_a_report_keeps_its_gpus_if_the_inventory_states_the_rest():
    stated = {"cluster_node_class": "minsky-p100", "slurm_node_cpus": 160, "slurm_node_memory_mb": 500000}
    [line] = slurm.slurm_nodes(["a"], {"a": stated})["lines"]
    assert line.startswith("NodeName=a Sockets=2 CoresPerSocket=10 ThreadsPerCore=8 Gres=gpu:p100:4 ")
    with pytest.raises(AnsibleFilterError, match="--limit"):
        slurm.slurm_nodes(["a"], {"a": stated | {"slurm_node_cpus": 0}})


@pytest.mark.parametrize(
    ("report", "words"), [("half", "2 sockets with 5 cores"), ("x86", "2 sockets with 16")]
)
def test_a_node_that_is_not_of_its_class_stops_the_run(report, words):
    with pytest.raises(AnsibleFilterError, match=f"a has {words}.*class minsky-p100.*1, 2, 4 or 8 threads"):
        slurm.slurm_nodes(["a"], {"a": gpus(report)})


def test_an_smt_that_the_class_does_not_have_stops_the_run():
    nodes = {"a": gpus("minsky", "pcie")}
    with pytest.raises(AnsibleFilterError, match=r"of 8 threads.*1 or 2 threads"):
        slurm.slurm_nodes(nodes, nodes)


def test_threads_that_the_inventory_states_outrank_those_that_are_online():
    [line] = slurm.slurm_nodes(["a"], {"a": gpus("minsky", slurm_node_cpus=20)})["lines"]
    assert "ThreadsPerCore=1 " in line


def test_a_node_poses_as_its_class_whatever_its_machine_has():
    posing = gpus("virtual", "dgx1-v100", slurm_simulated_hardware="yes")
    described = slurm.slurm_nodes(["a"], {"a": posing})
    assert described["simulated"]
    [line] = described["lines"]
    assert "Sockets=2 CoresPerSocket=20 ThreadsPerCore=2 Gres=gpu:v100:8 " in line
    assert line.endswith(" Feature=simulated")


def test_gpus_without_a_model_are_counted_without_a_type():
    nodes = {"a": gpus("x86", "pcie"), "b": gpus("minsky")}
    nodes["a"]["__slurm_probe"]["stdout"] = FOUND.format(40, 2, 10, 2, 257616)
    assert slurm.slurm_nodes(nodes, nodes)["tres"] == "gres/gpu,gres/gpu:p100"


NEW = """\
sacctmgr --immediate add qos batch MaxSubmitJobsPU=1000 Flags=DenyOnLimit
sacctmgr --immediate add qos interactive MaxJobsPU=1 MaxTRESPU=gres/gpu=1 MaxWall=04:00:00 Flags=DenyOnLimit
""".splitlines()
STANDS = "batch||1000|||DenyOnLimit\ninteractive|1||gres/gpu=1|04:00:00|DenyOnLimit\n"


@pytest.mark.parametrize(
    ("shown", "change", "expected"),
    [
        ("", {}, NEW),
        (STANDS, {}, []),
        # what a person added stays
        (STANDS.replace("||DenyOnLimit", "|1-00:00:00|DenyOnLimit,NoDecay", 1), {}, []),
        (STANDS.replace("gres/gpu=1", "cpu=80,gres/gpu=1"), {}, []),
        (STANDS, {"batch_max_gpus": 4}, ["sacctmgr --immediate modify qos batch set MaxTRESPU=gres/gpu=4"]),
        (
            STANDS.replace("1000||", "1000|gres/gpu=4|"),
            {},
            ["sacctmgr --immediate modify qos batch set MaxTRESPU=gres/gpu=-1"],
        ),
        (STANDS, {"batch_max_submit": "0"}, ["sacctmgr --immediate modify qos batch set MaxSubmitJobsPU=-1"]),
        (
            STANDS,
            {"interactive_max_hours": 25},
            ["sacctmgr --immediate modify qos interactive set MaxWall=1-01:00:00"],
        ),
    ],
)
def test_a_qos_is_given_the_limits_that_it_lacks(shown, change, expected):
    assert [" ".join(command) for command in slurm.slurm_qos(shown, LIMITS | change)] == expected


def test_the_accounting_is_asked_for_what_is_compared():
    asked = (ROOT / "playbooks" / "roles" / "slurm" / "tasks" / "controller.yml").read_text()
    assert (
        f"show qos {','.join(slurm.slurm_limits(LIMITS))} format={','.join(['Name', *slurm.QOS])}\n" in asked
    )


def test_every_qos_that_a_partition_names_is_made():
    text = (ROOT / "slurm" / "slurm.conf.j2").read_text()
    assert set(re.findall(r" QOS=(\w+)", text)) == set(slurm.slurm_limits(LIMITS))


JOB_SUBMIT = ROOT / "slurm" / "job_submit.lua"


@pytest.mark.parametrize(
    ("job", "gpus"),
    [
        ({"partition": "interactive"}, "gres/gpu:1"),
        ({"partition": "interactive", "tres_per_node": "gres/gpu:p100:2"}, "gres/gpu:p100:2"),
        ({"partition": "interactive", "tres_per_task": "gres/gpu:1"}, None),
        ({"partition": "batch"}, None),
        ({}, None),
    ],
)
def test_an_interactive_job_that_names_no_gpu_gets_one(job, gpus):
    lua = LuaRuntime()  # of the version that Debian builds Slurm with
    lua.globals().slurm = lua.table(SUCCESS=0)
    lua.execute(JOB_SUBMIT.read_text())
    script, described = lua.globals(), lua.table_from(job)
    assert script.slurm_job_submit(described, lua.table(), 0) == 0
    assert described.tres_per_node == gpus
    assert script.slurm_job_modify(described, lua.table(), lua.table(), 0) == 0


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
        (
            None,
            {"slurm_simulated_hardware": True},
            "60",
            "simulated_hardware is set for n, which has no",
        ),
        (
            None,
            {"cluster_node_class": "minsky-p100", "slurm_node_cpus": 60},
            "60",
            "20 cores of 1, 2, 4 or 8 threads.* Put one of 20, 40, 80, 160",
        ),
        (
            None,
            {"cluster_node_class": "ac922-4gpu"},
            "60",
            "node_memory_mb is not set for n.*nodes 0,8",
        ),
        (
            {"slurm_controller": ["c"], "slurm_node": ["n.a", "n.b"]},
            {},
            "60",
            "n.a and n.b are all n to",
        ),
    ],
)
def test_what_slurm_cannot_be_made_of_is_refused_in_a_sentence(groups, stated, limit, words):
    groups = groups or {"slurm_controller": ["c"], "slurm_node": ["n"]}
    hosts = {"c": {}, "d": {}, "n": stated, "n.a": {}, "n.b": {}}
    said = slurm.slurm_refusals(groups, hosts, limit)
    assert len(said) == 1
    assert re.search(words, said[0])


@pytest.mark.parametrize("name", slurm.LEAST)
def test_a_limit_below_which_nobody_could_submit_is_refused(name):
    groups = {"slurm_controller": ["c"], "slurm_node": ["n"]}
    hosts = {"c": {}, "n": {"cluster_node_class": "minsky-p100"}}
    assert slurm.slurm_refusals(groups, hosts, "60", LIMITS) == []
    [said] = slurm.slurm_refusals(groups, hosts, "60", LIMITS | {name: -1})
    assert f"slurm_{name} is -1" in said


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
