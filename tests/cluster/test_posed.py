"""The virtual cluster as three Minsky nodes: simulated GPUs, real Slurm, faults found and mended."""

import json
import re
import subprocess
import sys
from functools import partial
from shlex import quote

import pytest

from minsky import cluster

ROOT = cluster.ROOT
CLASS = "minsky-p100"
NONE = "none"
CHECKS_TAKE = 20  # s: each of them is asked twice before it counts
# What a job may open. A simulated device that it may has no driver behind it.
OPEN = """
import json, os
def opened(number):
    try:
        os.close(os.open(f"/dev/nvidia{number}", os.O_RDWR))
    except OSError as error:
        return error.strerror
print(json.dumps([opened(number) for number in range(4)]))
"""
THERE, FORBIDDEN = "No such device or address", "Operation not permitted"
# Faults of two nodes at a time, with what Slurm must give as reason for the drain.
FAULTS = [
    {
        "nvlink-down": r"nvlinks: NVLinks of GPU 2: 3 of 4 active; NVLinks of GPU 3: 3 of 4 active$",
        "mount-gone": r"mount /shared: not mounted\b",
    },
    {
        "gpu-lost": r"driver, gpus, .*: GPU 00000006:01:00.0 does not answer: GPU is lost",
        "ecc": r"ecc: .*\b3\b",
    },
    {
        "driver-dead": r"driver, gpus, .*couldn't communicate with the NVIDIA driver",
        "clock-skew": r"munge: .*[+-]\d\d s$",
    },
]
REASONS = {fault: reason for pair in FAULTS for fault, reason in pair.items()}
CELLS = {
    "nvlink-down": "nvlinks", "mount-gone": "mount /shared", "gpu-lost": "gpus", "ecc": "ecc",
    "driver-dead": "driver", "clock-skew": "munge",
}  # fmt: skip


def minsky(*words):
    """Run a verb on the virtual cluster."""
    subprocess.run([sys.executable, "-m", "minsky.cluster", *words], cwd=ROOT, check=True)


@pytest.fixture(scope="module", autouse=True)
def posed(virtual, boot, nodes):
    """Three nodes that pose; afterwards what was there before, where somebody had booted it."""
    if len(nodes) != 3:
        pytest.skip(
            f"two nodes break and a third takes their jobs; here are {len(nodes)}: make cluster NODES=3"
        )
    before = cluster.posing()
    minsky("up", "--class", CLASS)
    yield
    if not boot:
        minsky("up", "--class", before)


@pytest.fixture(scope="module")
def states(control):
    """Each node's state, and the reason where it is held back."""

    def ask():
        said = control.check_output(
            "sinfo --noheader --Node --partition=batch --Format='NodeHost:20,StateCompact:20,Reason:400'"
        )
        return {line[:20].strip(): (line[20:40].strip(), line[40:].strip()) for line in said.splitlines()}

    return ask


@pytest.fixture
def held(user, wait_until):
    """A job on node1 that holds GPU 0."""
    number = user.send("-w node1 -n 1 --mem 64 --gres=gpu:1 --wrap 'sleep 600'")
    wait_until(lambda: user.show(number)["JobState"] == "RUNNING", f"job {number} runs")
    assert gpus(user, number) == "0"
    yield number
    user.check(f"scancel {number}")


def gpus(user, number):
    """Which GPUs of its node a job holds, as Slurm writes them."""
    return re.search(r"GRES=gpu:p100:\d\(IDX:(.*?)\)", user.check(f"scontrol -d show job {number}"))[1]


def test_two_gpus_are_a_wired_pair_though_gpu_0_is_held_and_no_other_can_be_opened(user, held):
    job = user.script(
        f"scontrol -d show job $SLURM_JOB_ID; srun nvidia-smi topo -m; srun python3 -c {quote(OPEN)}",
        "-w node1 -n 1 --mem 64 --gres=gpu:2",
    )
    assert job.state == "COMPLETED", job.output
    assert "GRES=gpu:p100:2(IDX:2-3)" in job.output
    assert json.loads(job.output.splitlines()[-1]) == [FORBIDDEN, FORBIDDEN, THERE, THERE]
    assert re.search(r"(?m)^GPU0\tX\tNV2\t", job.output), job.output
    assert "GPU2" not in job.output


def test_a_job_without_gpus_can_open_none(user):
    job = user.script(f"srun python3 -c {quote(OPEN)}", "-w node1 -n 1 --mem 64")
    assert json.loads(job.output) == [FORBIDDEN] * 4


def test_a_lab_has_a_rank_per_gpu_by_the_sbatch_line_alone(user):
    job = user.submit("-N 2 --gpus-per-node=4 --ntasks-per-node=4 ~/jobs/by_hand.sh linear_regression")
    assert job.state == "COMPLETED", job.output
    assert (job.result["ranks"], job.result["nodes"]) == (8, 2)
    assert "gpus:    4 of p100 (simulated) per node\n" in job.output
    assert job.result["cost"] == pytest.approx(0.076928837, abs=1e-8)


def test_a_lab_that_is_content_with_two_gpus_leaves_the_others(user, held):
    job = user.submit('-w node1 -n 2 --gres=gpu:2 --wrap "bash ~/jobs/by_hand.sh linear_regression"')
    assert job.state == "COMPLETED", job.output
    assert job.result["ranks"] == 2
    assert "gpus:    2 of p100 (simulated) per node\n" in job.output


def test_a_smoke_job_passes_on_good_nodes(user, shared):
    job = user.submit(f"-N 1 -n 2 {shared}/jobs/smoke.sh")
    assert job.state == "COMPLETED", job.output
    assert job.result["simulated"]
    assert not job.result["failed"]
    for words in (r"devices +ok .* 3 ENXIO", r"tensorflow +ok .* 0 GPUs", r"horovod +ok +node\d +sum 3 of 3"):
        assert re.search(words, job.output), job.output


@pytest.fixture
def smoke(inventory, tmp_path):
    """Run the smoke tests of all nodes: the status, and what they print; smoke.xml and .png beside it."""

    def run():
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/smoke",
             "--inventory", inventory, "--junitxml", tmp_path / "smoke.xml",
             "--picture", tmp_path / "smoke.png"],
            cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def test_good_nodes_pass_the_smoke_tests(smoke, tmp_path):
    status, said = smoke()
    assert status == 0, said
    assert f"3 nodes, class {CLASS}, simulated GPUs: none failed" in said
    assert (tmp_path / "smoke.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "smoke.xml").read_text().count("<testcase") >= 3 * 20


@pytest.fixture(scope="module")
def noticed(control):
    """Seconds within which a fault must be noticed."""
    shown = control.check_output("scontrol show config")
    return int(re.search(r"HealthCheckInterval *= (\d+) sec", shown)[1]) + CHECKS_TAKE


@pytest.fixture(params=FAULTS, ids=" and ".join)
def broken(request, posed, states, wait_until):
    """Two nodes with a fault each, {name: fault}; mended afterwards, all in service."""
    yield dict(zip(("node1", "node2"), request.param, strict=True))
    mend(states, wait_until)


def mend(states, wait_until):
    minsky("fault", "--fault", NONE)
    wait_until(lambda: in_service(states()), "all nodes are back in service")


def in_service(found):
    return all(state in {"idle", "mix", "alloc", "comp"} for state, _ in found.values()) and found


def test_a_fault_drains_its_node_with_the_reason_reddens_its_cell_and_ends_with_the_repair(
    broken, states, wait_until, smoke, noticed
):
    for node, fault in broken.items():
        minsky("fault", "--node", node, "--fault", fault)

    def drained():
        now = states()
        return all(now[node][0].startswith(("drain", "drng")) for node in broken) and now

    now = wait_until(drained, f"{broken} are drained within the health interval", noticed)
    for node, fault in broken.items():
        assert re.match("nodecheck: ", now[node][1])
        assert re.search(REASONS[fault], now[node][1]), now
    assert now["node3"][0] == "idle"
    status, said = smoke()
    assert status == 1, said
    for node, fault in broken.items():
        assert f"test_smoke[{node}-{CELLS[fault]}]" in said
    assert "[node3-" not in "".join(line for line in said.splitlines() if line.startswith("FAILED"))


def begun(user, number):
    """What Slurm says of a job that has ended, or waits again."""
    shown = user.show(number)
    ended = shown["JobState"] == "COMPLETED" or shown["Restarts"] != "0"
    return shown if ended else None


@pytest.fixture
def mended(states, wait_until):
    """Whatever a test has broken is mended after it."""
    yield
    mend(states, wait_until)


@pytest.mark.parametrize("fault", sorted(REASONS.keys() - {"clock-skew"}))  # with which a job can do its work
def test_a_job_that_meets_a_fault_waits_for_another_node_and_runs_there(
    user, states, wait_until, mended, fault
):
    for _ in range(4):  # the health check may come first: then the job meets no fault
        minsky("fault", "--node", "node1", "--fault", fault)
        number = user.send("-n 1 --mem 64 --gres=gpu:1 --requeue --wrap hostname")
        shown = wait_until(partial(begun, user, number), f"job {number} has begun")
        if shown["Restarts"] != "0":
            break
        user.end(number)
        mend(states, wait_until)
    assert shown["Restarts"] == "1"
    assert shown["Priority"] != "0", "held"
    assert re.search(f"^nodecheck: .*{REASONS[fault]}", states()["node1"][1])
    user.check(f"scontrol update jobid={number} starttime=now")  # left alone it waits for two minutes
    job = user.end(number)
    assert job.state == "COMPLETED"
    assert job.shown["NodeList"] != "node1"


@pytest.fixture
def rattling(control):
    control.check_output("scontrol update nodename=node2 state=drain reason='a fan rattles'")
    yield "node2"
    control.check_output("scontrol update nodename=node2 state=resume")


def test_what_a_person_drained_stays_drained_whatever_the_checks_find(mended, rattling, nodes, states):
    node = next(node for node in nodes if node.check_output("hostname") == rattling)
    assert node.run("/etc/slurm/healthcheck").rc == 0
    assert states()[rattling] == ("drain", "a fan rattles")
    minsky("fault", "--node", rattling, "--fault", "ecc")
    assert "nodecheck: ecc: " in node.run("/etc/slurm/healthcheck").stdout
    assert states()[rattling] == ("drain", "a fan rattles")
