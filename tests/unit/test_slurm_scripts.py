"""Prolog, epilog and health check of Slurm, run as they stand, with stand-ins for what they call."""

import os
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from minsky.nodecheck.check import registered
from minsky.nodecheck.node import Node

SLURM = Path(__file__).resolve().parents[2] / "slurm"
FOUND = "nvlinks: NVLinks of GPU 2: 3 of 4 active"
OURS = "nodecheck: nvlinks: NVLinks of GPU 2: 3 of 4 active [root@2026-11-28T12:00:00]"
PERSONS = "DIMM smells [alice@2026-11-28T12:00:00]"
SLURMCTLDS = "Not responding [slurm@2026-11-28T12:00:00]"


@dataclass
class Machine:
    """A node with stand-ins for nodecheck, scontrol and sleep, which write down how they were called."""

    directory: Path
    environment: dict[str, str] = field(default_factory=lambda: {"SLURMD_NODENAME": "n1"})

    def __post_init__(self) -> None:
        (self.directory / "bin").mkdir()
        self.nodecheck(("", 0))
        self.slurm("IDLE")
        self.program("sleep", "")

    def program(self, name: str, body: str) -> None:
        log = shlex.quote(str(self.directory / "calls"))
        file = self.directory / "bin" / name
        file.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n{body}\n')
        file.chmod(0o755)

    def nodecheck(self, *answers: tuple[str, int]) -> None:
        """Let nodecheck give one answer after the other: text and exit status; the last one for good."""
        for number, (text, status) in enumerate(answers, 1):
            stream = 1 if status in (0, 1) else 2  # refusals are told there
            say = f"printf '%s\\n' {shlex.quote(text)} >&{stream};" if text else ""
            (self.directory / f"answer{number}").write_text(f"{say} exit {status}")
        self.program(
            "nodecheck",
            f"cd {shlex.quote(str(self.directory))}; number=$(grep -c '^nodecheck ' calls)\n"
            f'[ "$number" -lt {len(answers)} ] || number={len(answers)}\n. "./answer$number"',
        )

    def slurm(self, state: str, reason: str = "", status: int = 0) -> None:
        """Let slurmctld say of the node that it is in *state*, for *reason*."""
        said = (
            f"NodeName=n1 Arch=x86_64 CoresPerSocket=2\n   CPUAlloc=0 CPUTot=2\n   State={state} Weight=1\n"
        )
        said += f"   Partitions=batch\n   Reason={reason}\n" if reason else "   Partitions=batch\n"
        (self.directory / "node").write_text(said)
        file = shlex.quote(str(self.directory / "node"))
        self.program("scontrol", f'case "$1" in show) cat {file} ;; esac\nexit {status}')

    def meanwhile(self, state: str, reason: str) -> None:
        """Let slurmctld say this from the second time on that it is asked."""
        first = (self.directory / "node").read_text()
        self.slurm(state, reason)
        (self.directory / "first").write_text(first)
        count = f"grep -c '^scontrol show' {shlex.quote(str(self.directory / 'calls'))}"
        self.program(
            "scontrol",
            f'cd {shlex.quote(str(self.directory))}; [ "$1" = show ] || exit 0\n'
            f'if [ "$({count})" = 1 ]; then cat first; else cat node; fi',
        )

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [SLURM / script, *arguments], env={"PATH": path, **self.environment}, capture_output=True,
            text=True, check=False, cwd="/",
        )  # fmt: skip

    def calls(self, name: str) -> list[str]:
        file = self.directory / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]

    @property
    def updates(self) -> list[str]:
        return [call for call in self.calls("scontrol") if call.startswith("update")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def drained(reason: str) -> list[str]:
    return [f"update NodeName=n1 State=DRAIN Reason=nodecheck: {reason}"]


def test_a_fit_node_in_service_is_left_alone(machine):
    assert machine.run("healthcheck").returncode == 0
    assert machine.updates == []


@pytest.mark.parametrize("state", ["IDLE", "MIXED", "ALLOCATED+COMPLETING"])
def test_a_finding_drains_with_the_checks_name_and_what_it_found(machine, state):
    machine.nodecheck((FOUND, 1))
    machine.slurm(state)
    done = machine.run("healthcheck")
    assert (done.returncode, done.stdout) == (1, f"nodecheck: {FOUND}\n")
    assert machine.updates == drained(FOUND)


def test_what_is_found_once_and_not_again_drains_nothing(machine):
    machine.nodecheck((FOUND, 1), ("", 0))
    assert machine.run("healthcheck").returncode == 0
    assert len(machine.calls("nodecheck")) == 2
    assert machine.updates == []


@pytest.mark.parametrize("answer", [("", 0), (FOUND, 1), ("minsky: no class", 2)])
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("IDLE+DRAIN", PERSONS),
        ("MIXED+DRAIN", PERSONS),
        ("DOWN", PERSONS),
        ("DOWN+DRAIN", PERSONS),
        ("FAIL", PERSONS),
        ("IDLE+DRAIN", ""),
        ("IDLE+DRAIN", "Kill task failed [slurm@2026-11-28T12:00:00]"),
        ("IDLE+DRAIN", "see nodecheck: nvlinks [alice@2026-11-28T12:00:00]"),
    ],
)
def test_what_others_have_drained_stays_as_it_is(machine, state, reason, answer):
    machine.nodecheck(answer)
    machine.slurm(state, reason)
    assert machine.run("healthcheck").returncode == int(answer[1] > 0)
    assert machine.updates == []


def test_its_own_drain_ends_once_all_passes(machine):
    machine.slurm("IDLE+DRAIN", OURS)
    assert machine.run("healthcheck").returncode == 0
    assert machine.updates == ["update NodeName=n1 State=RESUME"]


@pytest.mark.parametrize("before", [("IDLE", ""), ("IDLE+DRAIN", OURS.replace("12:00", "11:00"))])
def test_a_drain_that_comes_while_it_looks_stays_until_it_has_looked_again(machine, before):
    machine.slurm(*before)
    machine.meanwhile("IDLE+DRAIN", OURS)
    assert machine.run("healthcheck").returncode == 0
    assert machine.updates == []
    assert machine.run("healthcheck").returncode == 0
    assert machine.updates == ["update NodeName=n1 State=RESUME"]


def test_its_own_reason_follows_the_finding_and_is_not_given_twice(machine):
    machine.slurm("IDLE+DRAIN", OURS)
    machine.nodecheck((FOUND, 1))
    assert machine.run("healthcheck").returncode == 1
    assert machine.updates == []
    machine.nodecheck(("driver: no GPU answers", 1))
    assert machine.run("healthcheck").returncode == 1
    assert machine.updates == drained("driver: no GPU answers")


@pytest.mark.parametrize(
    ("state", "reason"), [("DOWN", SLURMCTLDS), ("IDLE", PERSONS), ("IDLE", ""), ("DOWN", OURS)]
)
def test_a_reason_that_holds_nothing_back_is_written_over(machine, state, reason):
    machine.nodecheck(("driver: no GPU answers", 1))
    machine.slurm(state, reason)
    machine.run("healthcheck")
    assert machine.updates == drained("driver: no GPU answers")


def test_a_missing_program_drains(machine):
    (machine.directory / "bin" / "nodecheck").unlink()
    assert machine.run("healthcheck").returncode == 1
    (update,) = machine.updates
    assert update.startswith("update NodeName=n1 State=DRAIN Reason=nodecheck: program: ")
    assert "nodecheck" in update.split("program: ")[1]
    assert "No such file" in update


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("minsky: /etc/minsky/nodecheck.yml: class: 7 is none", 2),
         "refused: /etc/minsky/nodecheck.yml: class: 7 is none"),
        (("minsky: one\ntwo", 2), "refused: one two"),
        (("", 1), "failed without a word"),
        (("Killed", 137), "program: no answer within 20 s"),
        (("Segmentation fault", 139), "program: Segmentation fault"),
        ((f"mount: {'x' * 400}", 1), f"mount: {'x' * 400}"[:240]),
    ],
)  # fmt: skip
def test_whatever_is_no_pass_drains_in_a_line(machine, answer, reason):
    machine.nodecheck(answer)
    assert machine.run("healthcheck").returncode == 1
    assert machine.updates == drained(reason)


def test_a_program_that_hangs_drains(machine):
    machine.program("timeout", "exit 124")
    assert machine.run("healthcheck").returncode == 1
    assert machine.updates == drained("program: no answer within 20 s")


@pytest.mark.parametrize("answer", [("", 0), (FOUND, 1)])
def test_a_slurmctld_that_does_not_answer_is_asked_another_time(machine, answer):
    machine.nodecheck(answer)
    machine.slurm("IDLE", status=1)
    assert machine.run("healthcheck").returncode == 1
    assert machine.updates == []


def test_without_slurmds_name_of_the_node_its_host_name_counts(machine):
    machine.environment = {}
    machine.program("hostname", "echo n7")
    machine.nodecheck((FOUND, 1))
    machine.run("healthcheck")
    assert machine.calls("hostname") == ["-s"]
    assert machine.updates[0].startswith("update NodeName=n7 ")


SCRIPTS = {"prolog.d/20-nodecheck": {}, "epilog.d/05-nodecheck": {"SLURM_JOB_GPUS": "0,1"}}


@pytest.mark.parametrize("script", SCRIPTS)
def test_before_and_after_a_job_a_part_of_the_checks_drains_and_fails(machine, script):
    machine.environment |= SCRIPTS[script]
    machine.nodecheck((FOUND, 1))
    assert machine.run(script).returncode == 1
    assert machine.updates == drained(FOUND)


@pytest.mark.parametrize("script", SCRIPTS)
def test_where_these_pass_slurmctld_is_not_troubled_and_nothing_taken_back(machine, script):
    machine.environment |= SCRIPTS[script]
    machine.slurm("IDLE+DRAIN", OURS)
    assert machine.run(script).returncode == 0
    assert machine.calls("nodecheck")[0].startswith("--reason --only ")
    assert machine.calls("scontrol") == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_drain_by_a_person_outlasts_them(machine, script):
    machine.environment |= SCRIPTS[script]
    machine.nodecheck((FOUND, 1))
    machine.slurm("MIXED+DRAIN", PERSONS)
    assert machine.run(script).returncode == 1
    assert machine.updates == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_checks_that_they_name_exist_are_documented_and_one_of_them_every_node_has(machine, script):
    machine.environment |= SCRIPTS[script]
    machine.run(script)
    names = machine.calls("nodecheck")[0].split()[-1].split(",")
    checks = registered()
    assert set(names) <= set(checks)
    assert any(not checks[name].applies(Node()) for name in names), "nothing left to check is a refusal"
    told = (SLURM.parent / "docs" / "nodecheck.md").read_text()
    assert f"(`{script.split('/')[0]}/`) | {', '.join(f'`{name}`' for name in names)} |" in told


def test_a_job_without_gpus_leaves_them_unasked(machine):
    assert machine.run("epilog.d/05-nodecheck").returncode == 0
    assert machine.calls("nodecheck") == []


def in_slurms_order(directory: str) -> list[str]:
    return [path.name.split("-")[1] for path in sorted((SLURM / directory).iterdir(), reverse=True)]


def test_slurm_runs_a_directory_from_its_last_name_and_each_script_finds_what_it_needs():
    assert in_slurms_order("prolog.d") == ["nodecheck", "tmp"]  # nothing made for a job that is turned away
    # memory is free once processes are gone; what fails ends the row, and files are to go in any case
    assert in_slurms_order("epilog.d") == ["leftovers", "tmp", "nodecheck"]


@pytest.fixture
def job(machine):
    """Its environment is a job's, whose directory for temporary files is removed afterwards."""
    machine.environment |= {
        "SLURM_JOB_ID": f"{os.getpid()}7",
        "SLURM_JOB_UID": str(os.getuid()),
        "SLURM_JOB_GID": str(os.getgid()),
    }
    yield machine
    machine.run("epilog.d/10-tmp")


def directory_of(job: Machine) -> Path:
    return Path(f"/tmp/slurm-{job.environment['SLURM_JOB_ID']}")


def test_a_job_has_a_directory_for_temporary_files_and_it_goes_with_the_job(job):
    directory = directory_of(job)
    assert job.run("taskprolog").stdout == ""
    assert job.run("prolog.d/10-tmp").returncode == 0
    assert directory.stat().st_mode & 0o777 == 0o700
    assert job.run("taskprolog").stdout == f"export TMPDIR={directory}\n"
    (directory / "deep").mkdir()
    (directory / "deep" / "file").touch()
    assert job.run("prolog.d/10-tmp").returncode == 0, "a job that was requeued"
    assert list(directory.iterdir()) == []
    assert job.run("epilog.d/10-tmp").returncode == 0
    assert not directory.exists()


def test_what_somebody_put_in_its_place_is_not_followed(job, tmp_path):
    (mine := tmp_path / "mine").mkdir(mode=0o755)
    (mine / "file").touch()
    directory_of(job).symlink_to(mine)
    assert job.run("prolog.d/10-tmp").returncode == 0
    assert not directory_of(job).is_symlink()
    assert (mine / "file").exists()
    assert mine.stat().st_mode & 0o777 == 0o755


USER = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="ends processes of another user: run as root")


@pytest.fixture
def leftovers(job):
    """Start processes of USER, each with an environment of its own; `end` runs the epilog."""
    job.environment |= {"SLURM_JOB_UID": str(USER), "SLURM_JOB_ID": "7"}
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(["/bin/sleep", "600"], user=USER, group=USER, extra_groups=[], env=environment)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        return process.wait(0.5) == -9
    except subprocess.TimeoutExpired:
        return False


@pytest.fixture
def segment():
    file = Path(f"/dev/shm/minsky-test-{os.getpid()}")
    file.touch()
    os.chown(file, USER, USER)
    yield file
    file.unlink(missing_ok=True)


@as_root
def test_what_a_user_leaves_behind_with_the_last_job_is_ended(job, leftovers, segment):
    own, other = leftovers(SLURM_JOB_ID="7"), leftovers()
    done = job.run("epilog.d/30-leftovers")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"process {other.pid}, which job 7 of user {USER} had left" in done.stdout
    assert ended(own)
    assert ended(other)
    assert not segment.exists()


@as_root
@pytest.mark.parametrize("name", ["slurmstepd", "sshd-session"])
def test_of_a_user_with_another_job_or_a_login_only_the_jobs_own_processes_are_ended(
    job, leftovers, segment, tmp_path, name
):
    parent = tmp_path / name  # as root, as they are
    parent.write_text(f"#!/bin/sh\nsetpriv --reuid {USER} --regid {USER} --clear-groups sleep 600 & wait\n")
    parent.chmod(0o755)
    own, other = leftovers(SLURM_JOB_ID="7"), leftovers(SLURM_JOB_ID="77")
    with subprocess.Popen([parent], start_new_session=True) as present:
        try:
            deadline = time.monotonic() + 10
            pgrep = ["pgrep", "-u", str(USER), "-P", str(present.pid)]
            while subprocess.run(pgrep, capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, "nothing was started below it"
                time.sleep(0.05)
            assert job.run("epilog.d/30-leftovers").returncode == 0
            assert ended(own)
            assert not ended(other)
            assert segment.exists()
        finally:
            os.killpg(present.pid, 9)


@as_root
def test_processes_of_the_systems_accounts_are_not_ended(job, leftovers):
    process = leftovers(SLURM_JOB_ID="7")
    job.environment["SLURM_JOB_UID"] = "999"
    assert job.run("epilog.d/30-leftovers").returncode == 0
    assert not ended(process)
