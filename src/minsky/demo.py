"""From whatever stands to a network trained across the virtual cluster, and its result brought home."""

import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from minsky import follow, report
from minsky.cluster import USER, ssh, up
from minsky.errors import MinskyError
from minsky.paths import ROOT, STATE
from minsky.stages import Stages, console

DEADLINE = 1800  # seconds that a job may wait and run


class MissedError(MinskyError):
    """A lab did not reach its goal, though nothing was wrong with the machine."""

    status = 1


def demo(nodes: str | None, arguments: list[str], pose: str | None = None) -> None:
    """Bring the cluster up where it is not, train on two nodes, and end on the job's RESULT line.

    Args:
        nodes: compute nodes of the cluster; by default those that are up, or else three.
        arguments: for the lab. Without any, a result that misses its goal ends the program with status 1.
        pose: the node class that compute nodes pose as; by default what those that are up do.
    """
    stages = Stages("demo")
    ranks = min(up(nodes, stages, pose=pose, trust=True), 2)
    words = shlex.join(["-N", str(ranks), "jobs/cnn_horovod.sh", *arguments])
    with stages.stage("job", f"sbatch {words}"):
        name = time.strftime("%Y%m%d-%H%M%S")
        # With a copy of its own: ~/jobs is the user's to edit, and the demo shows the checkout's.
        job = as_user(
            f"mkdir -p demo/{name} && cd demo/{name} && cp -rT $MINSKY_SHARED/jobs jobs && "
            f"sbatch --parsable {words}"
        ).strip()
        try:
            state, output = watch(job)
        except KeyboardInterrupt:
            as_user(f"scancel {job}")
            console.print(
                f"  job {job} was cancelled; its files are in ~/demo/{name} on the cluster: make shell"
            )
            raise
        kept = fetch(f"demo/{name}", STATE / "results" / f"{name}-cnn-{job}")
    found = [line for line in output if line.startswith(report.MARK)]
    if state != "COMPLETED" or not found:
        said = "\n".join(output[-8:])
        raise MinskyError(f"job {job} ended {state}; its files are in {kept}, its last lines were:\n{said}")
    console.print(f"\nSeconds per stage:\n{stages.table()}\n")
    result = report.results(found[-1])[0]
    for key in ("results", "plot"):  # where they lie here, not on the cluster
        result[key] = next((str(path) for path in kept.rglob(Path(result[key]).name)), result[key])
    Console(highlight=False, width=max(console.width, 140)).print(report.summarise(result))  # paths whole
    console.print("The cluster stays up: make shell logs in, make demo trains again, make down removes it.")
    print(found[-1])
    if not arguments:
        judge(result)


def lab_help() -> int:
    """Show the lab's own help; return the exit status."""
    return subprocess.run(
        [sys.executable, "-m", "labs.cnn", "--help"], cwd=ROOT / "jobs", check=False
    ).returncode


def judge(result: dict[str, Any]) -> None:
    """Raise where a lab with default settings did not reach its goal."""
    measure = result["goal"]["measure"]
    if not result["goal"]["reached"]:
        raise MissedError(f"{result['lab']} misses its goal: {measure} {result['summary'][measure]}")


def as_user(script: str) -> str:
    """Run a bash *script* in a login shell of USER on control, and return what it prints."""
    done = subprocess.run(
        ssh(USER, f"bash -lc {shlex.quote(script)}"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise MinskyError(f"On control, as {USER}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def watch(job: str) -> tuple[str, list[str]]:
    """Show a job's states and output until it ends; return the last state and the lines of its output."""
    state, output = "", []
    with (
        Path(follow.__file__).open() as program,
        subprocess.Popen(
            ssh(USER, f"python3 -u - {job} {DEADLINE}"), stdin=program, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            text = line.rstrip("\n")[2:]
            if line.startswith("= "):
                state = text.split()[0]
                console.print(f"  job {job}: {text.removesuffix(' None')}")
            else:
                output.append(text)
                console.print(f"  | {text}")
    if process.returncode not in {0, 1}:
        raise MinskyError(
            f"job {job} was {state or 'not seen'} when following it ended (after {DEADLINE} s, or with the "
            "connection): `make shell`, then `squeue` and `sacct` show what became of it."
        )
    return state, output


def fetch(directory: str, to: Path) -> Path:
    """Copy a submit directory of USER from the cluster, without jobs and checkpoints; return *to*."""
    to.mkdir(parents=True)
    command = ssh(USER, f"tar -C {directory} -c --exclude=./jobs --exclude=checkpoints .")
    try:
        with (
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            # Python before 3.11.4, which Debian 12 has, knows no filter
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(to)  # noqa: S202
    except tarfile.TarError as error:
        raise MinskyError(
            f"The connection to control broke while {directory} was copied from it ({error}); it lies there "
            "still: make shell"
        ) from error
    return to
