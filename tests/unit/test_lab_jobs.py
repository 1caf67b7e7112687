"""The job scripts where there is no Slurm: the lab runs as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def job(script, *arguments, cwd):
    """Run a job script as a user without Slurm would, with this Python as `python`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MINSKY_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=cwd,
        env=clean | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", sorted(JOBS.glob("*_horovod.sh")), ids=lambda script: script.name)
def test_a_job_says_where_it_runs_and_passes_its_arguments_on_from_any_directory(script, tmp_path):
    done = job(script, "--no-such-option", cwd=tmp_path)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["nodes", "image", "threads"]


def test_a_copy_without_the_labs_beside_it_says_where_to_submit(tmp_path):
    copy = tmp_path / "cnn_horovod.sh"
    copy.write_bytes((JOBS / "cnn_horovod.sh").read_bytes())
    done = job(copy, cwd=tmp_path)
    assert done.returncode == 1
    assert "no labs/ beside" in done.stderr
