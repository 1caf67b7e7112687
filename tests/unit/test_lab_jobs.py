"""The job scripts where there is no Slurm: the lab runs as one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def job(script, *arguments, cwd, programs=Path(sys.executable).parent, **environment):
    """Run a job script as a user without Slurm would, with this Python as `python`, or other *programs*."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MINSKY_"))}
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=cwd,
        env=clean | {"PATH": f"{programs}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_job_says_where_it_runs_and_passes_its_arguments_on_from_any_directory(lab, tmp_path):
    done = job(JOBS / f"{lab}_horovod.sh", "--no-such-option", cwd=tmp_path)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["nodes", "image", "threads"]


def test_a_copy_without_the_labs_beside_it_says_where_to_submit(tmp_path):
    copy = tmp_path / "cnn_horovod.sh"
    copy.write_bytes((JOBS / "cnn_horovod.sh").read_bytes())
    done = job(copy, cwd=tmp_path)
    assert done.returncode == 1
    assert "no labs/ beside" in done.stderr


@pytest.fixture
def container(tmp_path):
    """Run the CNN's job with an apptainer that prints its options; what it printed."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "apptainer: $*"\n')
    program.chmod(0o755)
    shared = tmp_path / "shared"
    for name in ("images", "data"):
        (shared / name).mkdir(parents=True)
    (shared / "images" / f"lab-{os.uname().machine}.sif").touch()

    def run(*arguments):
        script, programs = JOBS / "cnn_horovod.sh", program.parent
        done = job(script, *arguments, cwd=shared, programs=programs, MINSKY_SHARED=str(shared))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return run


@pytest.mark.parametrize("form", [("--results", "{}"), ("--results={}",)], ids=["two words", "one word"])
def test_the_place_of_results_and_the_data_are_in_the_container_wherever_they_lie(container, tmp_path, form):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to("scratch")
    shared, scratch = tmp_path / "shared", tmp_path / "scratch"
    said = container(*(word.format(tmp_path / "link" / "yet" / "to be made") for word in form), "--seed", "1")
    binds = said.split(" --bind ")[1].split(" ")[0].split(",")
    assert binds == [str(JOBS), str(shared), str(scratch), f"{shared}/data:{shared}/data:ro"]


def test_files_that_an_option_names_are_in_the_container_wherever_they_lie(container, tmp_path):
    for name in ("pictures/1.jpg", "more/2.jpg", "model"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pictures = [str(tmp_path / name) for name in ("pictures", "more/2.jpg")]
    said = container("--images", *pictures, f"--weights={tmp_path}/model", "--check", "--labels", "/no/file")
    binds = said.split(" --bind ")[1].split(" ")[0].split(",")
    assert binds[2:-1] == [f"{tmp_path}/pictures", f"{tmp_path}/more", str(tmp_path)]


def test_a_job_takes_the_image_for_its_architecture(container):
    assert f"/images/lab-{os.uname().machine}.sif python -m labs.cnn" in container()


@pytest.mark.parametrize(("shared", "said"), [("/proc", "do not share"), ("{here}", "srun has no PMIx here")])
def test_a_directory_is_shared_if_it_lies_on_the_shared_file_system_whatever_its_type(tmp_path, shared, said):
    done = job(
        JOBS / "cnn_horovod.sh", cwd=tmp_path, HOME=str(tmp_path), MINSKY_SHARED=shared.format(here=tmp_path),
        SLURM_JOB_ID="7", SLURM_JOB_NAME="cnn", SLURM_JOB_NUM_NODES="1", SLURM_SUBMIT_HOST="elsewhere",
        SLURM_SUBMIT_DIR="/tmp/mine",
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert (tmp_path / "cnn-7.out").exists() == (shared == "/proc")


@pytest.mark.parametrize(("results", "stay"), [("/dev/shm/mine", True), ("mine", False)])
def test_results_that_stay_on_a_node_are_told_in_a_sentence(tmp_path, results, stay):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "apptainer"):
        (programs / name).write_text("#!/bin/sh\necho pmix\n")
        (programs / name).chmod(0o755)
    (tmp_path / "lab.sif").touch()
    done = job(
        JOBS / "cnn_horovod.sh", "--results", results, cwd=tmp_path, programs=programs,
        MINSKY_SHARED=str(tmp_path), MINSKY_IMAGE=str(tmp_path / "lab.sif"), SLURM_JOB_ID="7",
        SLURM_JOB_NUM_NODES="2", SLURM_JOB_CPUS_PER_NODE="2(x2)", SLURM_SUBMIT_HOST="elsewhere",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sentence = f"results: they stay on the node of rank 0, since the nodes do not share {results}"
    assert (sentence in done.stdout) == stay
