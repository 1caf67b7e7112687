"""What of jobs/smoke.sh needs neither GPU nor Horovod: what nodes are asked, devices, verdicts, the table."""

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

import smoke
from minsky import report
from minsky.errors import MinskyError
from minsky.nodecheck.check import registered
from minsky.smoke import of_job

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A node with devices of simulated GPUs and a stand-in for nodecheck that repeats its arguments."""
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    monkeypatch.setattr(smoke, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(smoke, "NETWORKS", tmp_path / "class")
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    program = tmp_path / "nodecheck"
    program.write_text(
        '#!/bin/sh\necho \'{"class": "minsky-p100", "simulated": true, "floors": {}, "checks": '
        '[{"name": "asked", "expected": "", "found": "\'"$*"\'", "verdict": "ok", "do": ""}]}\'\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(smoke, "NODECHECK", str(program))
    return tmp_path


def asked(directory):
    smoke.node(directory)
    told = json.loads((directory / "node-node1.json").read_text())
    return told["checks"][0]["found"].split(" ")[-1].split(",")


def test_a_node_is_asked_for_what_the_job_sees_of_it(machine, monkeypatch):
    assert set(asked(machine)) == set(smoke.PLAIN)
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    assert set(asked(machine)) == {*smoke.PLAIN, *smoke.ANY_GPU}
    monkeypatch.setenv("SLURM_STEP_GPUS", "0,1,2,3")
    assert set(asked(machine)) == {*smoke.PLAIN, *smoke.ANY_GPU, *smoke.ALL_GPUS}


def test_a_job_asks_all_of_nodechecks_checks_that_a_user_can(machine):
    asked = [*smoke.PLAIN, *smoke.ANY_GPU, *smoke.ALL_GPUS]
    assert sorted([*asked, "container", "mount", "xid"]) == sorted(registered())


def test_a_node_without_nodecheck_is_a_failure(machine, monkeypatch):
    monkeypatch.setattr(smoke, "NODECHECK", "/nowhere/nodecheck")
    smoke.node(machine)
    (check,) = json.loads((machine / "node-node1.json").read_text())["checks"]
    assert (check["name"], check["verdict"], "No such file" in check["found"]) == (
        "nodecheck",
        "failed",
        True,
    )


def test_the_network_is_what_the_kernel_says(machine):
    assert smoke.network() == 0
    for name, rate in (("docker0", "10000"), ("eth0", "1000"), ("eth1", "-1")):
        (machine / "class/net" / name).mkdir(parents=True)
        (machine / "class/net" / name / "speed").write_text(rate)
        if name.startswith("eth"):
            (machine / "class/net" / name / "device").mkdir()
    assert smoke.network() == pytest.approx(0.125)
    ports = {  # two of one adapter, one of another, and one without a cable
        "mlx5_0": ("0000:01:00.0", "4: ACTIVE"),
        "mlx5_1": ("0000:01:00.1", "4: ACTIVE"),
        "mlx5_2": ("0003:01:00.0", "4: ACTIVE"),
        "mlx5_3": ("0004:01:00.0", "1: DOWN"),
    }
    for port, (address, state) in ports.items():
        directory = machine / "class/infiniband" / port / "ports/1"
        directory.mkdir(parents=True)
        (directory / "rate").write_text("100 Gb/sec (4X EDR)\n")
        (directory / "state").write_text(f"{state}\n")
        (directory.parents[1] / "device").symlink_to(machine / "devices" / address)
    assert smoke.network() == 25


@pytest.fixture
def doors(machine, monkeypatch):
    """Let the devices of GPUs answer as they are told: an error's name, or `open`."""

    def make(*answers):
        real = os.open

        def opened(path, *rest):
            name = Path(path).name
            if not name.startswith("nvidia"):
                return real(path, *rest)
            told = answers[int(name.removeprefix("nvidia"))]
            if told != "open":
                raise OSError(getattr(errno, told), told)
            return real("/dev/null", os.O_RDWR)

        monkeypatch.setattr(os, "open", opened)
        return smoke.reached()

    return make


@pytest.mark.parametrize(
    ("held", "answers", "verdict"),
    [("2,3", ("EPERM", "EPERM", "ENXIO", "ENXIO"), "ok"), ("0", ("open", "EPERM", "EPERM", "EPERM"), "ok"),
     ("2,3", ("ENXIO", "EPERM", "ENXIO", "ENXIO"), "failed"), ("", ("EPERM",) * 4, "ok"),
     ("2,3", ("EPERM", "EPERM", "ENXIO", "EPERM"), "failed"), ("", ("open",) * 4, "failed"),
     ("0", ("EACCES", "EPERM", "EPERM", "EPERM"), "failed")],
)  # fmt: skip
def test_a_job_opens_the_gpus_that_it_was_given_and_no_others(held, answers, verdict, doors, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_GPUS", held)
    result = doors(*answers)
    assert result["verdict"] == verdict, result
    assert all(word in result["found"] for word in answers)
    assert bool(result["do"]) == (verdict == "failed")


def test_without_gpus_none_given_and_none_seen_is_told(machine):
    for device in (machine / "dev").iterdir():
        device.unlink()
    assert smoke.reached()["verdict"] == "skipped"
    assert smoke.seen(0, simulated=False)["verdict"] == "ok"


def test_without_slurm_all_gpus_are_ones_own(machine, monkeypatch, doors):
    monkeypatch.delenv("SLURM_JOB_ID")
    assert set(asked(machine)) == {*smoke.PLAIN, *smoke.ANY_GPU, *smoke.ALL_GPUS}
    assert doors(*["open"] * 4)["verdict"] == "ok"
    assert [smoke.seen(count, simulated=False)["verdict"] for count in (3, 4)] == ["failed", "ok"]


def test_tensorflow_must_see_as_many_gpus_as_were_given(machine, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_GPUS", "2,3")
    assert [smoke.seen(count, simulated=False)["verdict"] for count in (1, 2, 4)] == [
        "failed",
        "ok",
        "failed",
    ]
    simulated = smoke.seen(0, simulated=True)
    assert (simulated["verdict"], "simulated" in simulated["expected"]) == ("ok", True)


def test_a_rate_has_a_verdict_only_where_nccl_moved_it():
    assert smoke.judge("a", 13.9, 28, "half", nccl=True)["verdict"] == "failed"
    good = smoke.judge("a", 14.1, 28, "half of it", nccl=True)
    assert (good["verdict"], good["expected"]) == ("ok", "14.0 GB/s at least (half of it)")
    told = smoke.judge("a", 0.4, 28, "half", nccl=False)
    assert (told["verdict"], told["found"]) == (
        "ok", "0.40 GB/s, without a verdict: MPI between CPUs, and no NCCL between GPUs",
    )  # fmt: skip
    assert "not told" in smoke.judge("a", 9, 0, "half", nccl=True)["found"]
    assert smoke.judge("a", 0, 28, "half", nccl=False)["verdict"] == "failed"


@pytest.fixture
def results(tmp_path):
    """What two nodes and their ranks wrote; the verdict of a rank's check is the caller's."""

    def write(verdict):
        for name in ("node1", "node2"):
            told = {"class": "minsky-p100", "simulated": True, "checks": [smoke.finding("gpus", "4", "4")]}
            (tmp_path / f"node-{name}.json").write_text(json.dumps(told))
        good = smoke.finding("horovod", "alike", "alike")
        bad = smoke.finding(
            "horovod", "alike", "0.5 apart", verdict, "see the log" if verdict == "failed" else ""
        )
        (tmp_path / "ranks.json").write_text(
            json.dumps([("node1", [good]), ("node2", [bad]), ("node2", [good])])
        )
        return tmp_path

    return write


def test_the_table_says_what_failed_where_and_ends_with_a_result(results, capsys):
    assert smoke.table(results("failed"), ["node1", "node2"]) == 1
    said = capsys.readouterr().out
    rows = {tuple(line.split()[:3]) for line in said.splitlines() if line}
    assert {("gpus", "ok", "all"), ("horovod", "ok", "node1"), ("horovod", "FAILED", "node2")} <= rows
    assert "do: see the log" in said
    (told,) = report.results(said)
    assert (told["failed"], told["simulated"], told["goal"]["reached"]) == (
        {"node2": ["horovod"]},
        True,
        False,
    )
    assert "simulated GPUs" in said
    assert report.summarise(told).row_count >= 3
    assert smoke.table(results("ok"), ["node1", "node2"]) == 0


def test_what_a_job_found_is_read_where_files_for_ci_and_pictures_are_made(results):
    directory = results("failed")
    smoke.table(directory, ["node1", "node2", "node3"])
    found = {each.node: each for each in of_job(directory)}
    assert [[check.name for check in each.failed] for each in found.values()][:2] == [[], ["horovod"]]
    assert "nodecheck" in [check.name for check in found["node3"].failed]
    assert found["node1"].simulated
    (directory / "nodes.jsonl").write_text("{}\n")
    for place in (directory, directory / "none"):
        with pytest.raises(MinskyError, match="name the smoke-JOB"):
            of_job(place)


def test_ranks_that_did_not_end_and_nodes_that_did_not_answer_are_red(results, capsys):
    directory = results("ok")
    (directory / "ranks.json").unlink()
    (directory / "node-node2.json").unlink()
    assert smoke.table(directory, ["node1", "node2"]) == 1
    (told,) = report.results(capsys.readouterr().out)
    assert told["failed"] == {"node1": ["ranks"], "node2": ["nodecheck", "ranks"]}


def test_the_job_says_without_slurm_and_horovod_what_is_missing(tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MINSKY_"))}
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nexec python3 "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", JOBS / "smoke.sh", "--mib", "1"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=clean | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (told,) = report.results(done.stdout)
    assert told["failed"][os.uname().nodename][-1] == "ranks"
    assert "has no module" in done.stderr


def test_under_slurm_each_node_is_asked_once_and_one_that_writes_nothing_is_red(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_ins = {
        "srun": 'case "$*" in --mpi=list*) echo pmix;; '
        '*) echo "$@" "cores: ${SRUN_CPUS_PER_TASK:-all}" >>steps;; esac',
        "scontrol": 'case "$*" in *hostnames*) printf "node1\\nnode2\\n";; esac',
        "apptainer": 'until [ "$1" = python ]; do shift; done; shift; exec python3 "$@"',
    }
    for name, does in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n# simulated\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "lab.sif").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MINSKY_"))}
    job = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_CPUS_PER_NODE": "2(x2)", "SLURM_SUBMIT_HOST": "elsewhere",
        "SLURM_SUBMIT_DIR": str(tmp_path), "MINSKY_SHARED": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MINSKY_IMAGE": str(tmp_path / "lab.sif"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", JOBS / "smoke.sh", "--mib", "8"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=clean | job,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    asked, ranks = (tmp_path / "steps").read_text().splitlines()
    assert "--cpu-bind=none --nodes=2 --ntasks=2 --ntasks-per-node=1 python3" in asked
    assert asked.endswith(f"smoke.py node {tmp_path}/smoke-7 cores: all")
    assert ranks.endswith(f"smoke.py ranks {tmp_path}/smoke-7 --mib 8 cores: 1")
    (told,) = report.results(done.stdout)
    assert told["failed"] == {name: ["nodecheck", "ranks"] for name in ("node1", "node2")}
