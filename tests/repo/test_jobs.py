"""Contracts that every job script and lab keeps."""

import importlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from labs.labkit.goal import Goal

JOBS = Path(__file__).resolve().parents[2] / "jobs"
LABS = (JOBS.parent / "docs" / "labs.md").read_text()
SCRIPTS = sorted([*JOBS.glob("*.sh"), *JOBS.glob("sweeps/*.sh")])
BATCH = [script for script in SCRIPTS if re.search("(?m)^#SBATCH", script.read_text())]

WARNING = "--signal=B:USR1@90"  # seconds: a checkpoint of every lab takes less

# How each script finds launch.sh; UP leads from its directory, HERE, to jobs/. Not in a file that they share:
# these lines find that file.
FIND = """\
# Slurm runs a copy of this file in its spool, so $0 does not lead to jobs/: Slurm knows what was submitted.
submitted=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n '/^ *Command=\\//{s///;s|^|/|p;q}') || true
until [[ -f $submitted || $submitted != *\\ * ]]; do submitted=${submitted% *}; done # behind it its arguments
for jobs in "${submitted:+$(dirname "$submitted")UP}" "$(dirname "$0")UP" "${SLURM_SUBMIT_DIR:-.}"{,/jobs} ''; do
  [[ -f $jobs/labs/launch.sh ]] && break
done
[[ $jobs ]] || { echo "minsky: no labs/ beside ${submitted:-$0}: submit the script from HERE/" >&2 && exit 1; }
"""  # noqa: E501 - the script's own line

# What each lab's script does, below its comments.
BODY = """\
set -euo pipefail

FIND# shellcheck source=jobs/labs/launch.sh
source "$jobs/labs/launch.sh"

run python -m labs.LAB "$@"
"""


def commands(script):
    """The lines of *script* that are no comments."""
    return [line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")]


def find(directory):
    """The lines that find launch.sh, as they stand in the scripts of *directory*."""
    below = directory.relative_to(JOBS.parent)
    return FIND.replace("UP", "/.." * (len(below.parts) - 1)).replace("HERE", str(below))


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_directives_stand_first_and_together_since_slurm_ignores_later_ones(script):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(n for n, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    assert max(directives) < first_command
    assert directives == list(range(directives[0], directives[0] + len(directives)))


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_a_script_passes_its_arguments_on_and_expands_no_rank_on_the_batch_host(script):
    text = "\n".join(commands(script))
    assert '"$@"' in text
    assert not re.search(r"bash\s+-c", text)
    assert "set -euo pipefail" in text


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_a_script_finds_what_it_needs_as_every_other_does(script):
    assert find(script.parent) in script.read_text()


@pytest.mark.parametrize("script", BATCH, ids=lambda script: script.name)
def test_a_script_leaves_partition_and_account_to_the_user(script):
    assert not re.search(r"#SBATCH.*(--partition|--account|--reservation| -p | -A )", script.read_text())


def test_labs_differ_in_their_directives_and_programs_only(lab):
    text = (JOBS / f"{lab}_horovod.sh").read_text()
    assert text[text.index("set -euo pipefail") :] == BODY.replace("FIND", find(JOBS)).replace("LAB", lab)
    # results lie beside the output, in LAB-JOB/; before its time is up a job saves and waits again
    trains = "steps" in vars(importlib.import_module(f"labs.{lab}").knobs().parse_args([]))
    saves = ["--open-mode=append", "--requeue", WARNING] if trains else []
    for directive in (f"--job-name={lab}", "--output=%x-%j.out", *saves):
        assert f"\n#SBATCH {directive}\n" in text


def test_a_lab_is_listed_described_and_has_its_program(lab):
    assert f"| `{lab}_horovod.sh` |" in (JOBS / "README.md").read_text(), "jobs/README.md has no row for it"
    [section] = re.findall(rf"(?s)Job:\s`jobs/{lab}_horovod\.sh`\.\n(.*?)(?:\n## |$)", LABS) or [""]
    missing = [
        part
        for part in ("What you learn", "What to type", "Exercises", "| must be | seen")
        if part not in section
    ]
    assert missing == [], "its section of docs/labs.md lacks these"
    assert "# Horovod:" in (JOBS / "labs" / f"{lab}.py").read_text()


def test_a_lab_states_its_goals_with_their_sources_and_explains_its_options(lab):
    program = importlib.import_module(f"labs.{lab}")
    assert program.GOALS
    for goal in program.GOALS.values():
        assert isinstance(goal, Goal)
        assert goal.source
    for action in program.knobs()._actions:
        assert action.help, action.option_strings


def test_a_lab_shows_what_it_printed_on_two_ranks_of_the_virtual_cluster(lab):
    reference = JOBS / "reference" / f"{lab}.out"
    assert reference.exists(), f"keep there what `sbatch -N 2 jobs/{lab}_horovod.sh` printed"
    text = reference.read_text()
    result = json.loads(re.findall(r"(?m)^RESULT (\{.*\})$", text)[-1])
    assert (result["lab"], result["ranks"], result["nodes"]) == (lab, 2, 2)
    assert result["goal"]["reached"]


def test_there_is_no_lab_program_without_a_job():
    programs = [path.stem for path in (JOBS / "labs").glob("[!_]*.py")]
    assert [name for name in programs if not (JOBS / f"{name}_horovod.sh").exists()] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_sound_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SWEEPS = sorted(
    set((JOBS / "sweeps").glob("*.sh")) - {JOBS / "sweeps" / "sweep.sh", JOBS / "sweeps" / "collect.sh"}
)


def points(sweep):
    """The words that *sweep* hands to its lab, as bash has them."""
    line = re.search(r"(?m)^points=.*$", sweep.read_text())[0]
    said = subprocess.run(
        ["bash", "-c", f'{line}; printf "%s\\n" "${{points[@]}}"'], capture_output=True, text=True, check=True
    )
    return said.stdout.splitlines()


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.stem)
def test_a_sweep_has_a_task_for_each_point_two_at_a_time_and_its_lab_takes_them(sweep):
    text = sweep.read_text()
    assert f"\n#SBATCH --job-name={sweep.stem}\n" in text
    assert f"\n#SBATCH --array=0-{len(points(sweep)) - 1}%2\n" in text
    lab = re.search(r"(?m)^lab=(\w+)$", text)[1]
    for point in points(sweep):
        importlib.import_module(f"labs.{lab}").knobs().parse_args(point.split())


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda sweep: sweep.stem)
def test_a_sweep_is_listed_with_its_lab_and_differs_in_that_and_its_points_only(sweep):
    text = sweep.read_text()
    lab = re.search(r"(?m)^lab=(\w+)$", text)[1]
    assert f"| `{sweep.name}` | {lab} |" in (JOBS / "README.md").read_text()
    same = {
        re.sub(r"(?m)^(lab|points)=.*$", "", s.read_text()[s.read_text().index("set -euo") :]) for s in SWEEPS
    }
    assert len(same) == 1
