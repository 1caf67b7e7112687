"""Contracts that every job script and lab keeps."""

import re
import subprocess
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"
LABS = sorted(JOBS.glob("*_horovod.sh"))


@pytest.mark.parametrize("script", LABS, ids=lambda script: script.name)
def test_directives_stand_first_and_together_since_slurm_ignores_later_ones(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives, "no directive at all"
    first_command = next(n for n, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    assert max(directives) < first_command
    assert directives == list(range(directives[0], directives[0] + len(directives)))


@pytest.mark.parametrize("script", LABS, ids=lambda script: script.name)
def test_a_script_passes_its_arguments_on_and_expands_no_rank_on_the_batch_host(script):
    text = script.read_text()
    assert '"$@"' in text
    assert not re.search(r"bash\s+-c", text)
    assert "set -euo pipefail" in text


@pytest.mark.parametrize("script", LABS, ids=lambda script: script.name)
def test_a_script_leaves_partition_and_account_to_the_user(script):
    assert not re.search(r"#SBATCH.*(--partition|--account|--reservation| -p | -A )", script.read_text())


@pytest.mark.parametrize("script", LABS, ids=lambda script: script.name)
def test_a_lab_is_listed_and_has_its_program(script):
    lab = script.name.removesuffix("_horovod.sh")
    assert (JOBS / "labs" / f"{lab}.py").exists()
    assert f"`{script.name}`" in (JOBS / "README.md").read_text()
    assert "# Horovod:" in (JOBS / "labs" / f"{lab}.py").read_text()


def test_there_is_no_lab_program_without_a_job():
    programs = {path.stem for path in (JOBS / "labs").glob("*.py")} - {"__init__"}
    assert programs == {script.name.removesuffix("_horovod.sh") for script in LABS}


@pytest.mark.parametrize("script", sorted(JOBS.glob("*.sh")), ids=lambda script: script.name)
def test_a_script_is_sound_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
