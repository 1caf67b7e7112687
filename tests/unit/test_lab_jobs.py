"""The job scripts without Slurm, where the lab runs as one process, and with stand-ins for Slurm."""

import os
import re
import shutil
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


SRUN = """\
#!/bin/sh
[ "$1" != --mpi=list ] || { echo pmix; exit; }
echo "srun: ${*%% apptainer*} | apptainer: ${*##*apptainer }"
env | grep -E '^(SRUN_|CUDA_|SLURM_(GPUS|TRES|NTASKS_PER_GPU))' | sort | tr '\\n' ' '
"""
# As `scontrol --details show job` of Slurm 24.11 has it; a line for nodes that gave the same.
JOB = """\
JobId=7 JobName=cnn
   NumNodes=2 NumCPUs=320 NumTasks=8 CPUs/Task=N/A ReqB:S:C:T=0:0:*:*
   ReqTRES=cpu=8,mem=16G,node=2,billing=8,gres/gpu=8
   JOB_GRES=gpu:p100:8
"""


@pytest.fixture
def batch(tmp_path):
    """Run the CNN's job as if Slurm had started it, in a copy whose /dev/nvidiactl and mark lie in tmp_path.

    *granted*: what each group of nodes gave, as scontrol tells it; *cuda*: whether that image is chosen.
    """
    shared, programs = tmp_path / "shared", tmp_path / "bin"
    for directory in (shared / "images", programs, tmp_path / "root"):
        directory.mkdir(parents=True)
    shutil.copytree(JOBS, tmp_path / "jobs")
    for file in ("env.sh", "labs/launch.sh"):
        text = (JOBS / file).read_text()
        for name in ("/dev/nvidiactl", "/etc/minsky/simulated"):
            assert name in text
            text = text.replace(name, f"{tmp_path}/root/{Path(name).name}")
        (tmp_path / "jobs" / file).write_text(text)
    image = f"lab-{os.uname().machine}"
    for name in (image, f"{image}-cuda"):
        (shared / "images" / f"{name}.sif").touch()
    (tmp_path / "root" / "nvidiactl").touch()

    def run(*granted, nodes=2, cpus="160(x2)", **environment):
        lines = [f"     Nodes=m{n} CPU_IDs=0-159 Mem=1024 GRES={given}" for n, given in enumerate(granted)]
        (tmp_path / "job").write_text(JOB + "\n".join(lines) + "\n")
        shown = f'#!/bin/sh\n[ "$1" != --details ] || cat {tmp_path}/job\n'
        for name, text in {"srun": SRUN, "scontrol": shown, "apptainer": "", "nproc": "echo 96"}.items():
            (programs / name).write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        return job(
            tmp_path / "jobs" / "cnn_horovod.sh", cwd=shared, programs=programs, MINSKY_SHARED=str(shared),
            SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES=str(nodes), SLURM_JOB_CPUS_PER_NODE=cpus,
            SLURM_SUBMIT_HOST=os.uname().nodename, SLURMD_NODENAME="m0", **environment,
        )  # fmt: skip

    return run


FOUR = "gpu:p100:4(IDX:0-3)"
FOR_GPUS = "--gpu-bind=none --distribution=block:block --cpu-bind=cores"
IDLE = "idle: --ntasks-per-node=4 gives each a rank"


def step(ranks, gpus):
    return f"--ntasks-per-node={ranks} --gpus-per-node={gpus}"


@pytest.mark.parametrize(
    ("granted", "settings", "expected"),  # the line of GPUs, options of srun, CPUs of a rank
    [
        pytest.param(
            [FOUR], {"SLURM_NTASKS": "8", "SLURM_GPUS_PER_NODE": "4"},
            ("4 of p100 per node", f"{step(4, 4)} {FOR_GPUS}", 40),
            id="-N 2 --gpus-per-node=4 --ntasks-per-node=4",
        ),
        pytest.param(
            [FOUR], {"SLURM_NTASKS": "8", "SLURM_GPUS_PER_TASK": "1", "SLURM_TRES_PER_TASK": "gres/gpu=1"},
            ("4 of p100 per node", f"{step(4, 4)} {FOR_GPUS}", 40), id="-N 2 -n 8 --gpus-per-task=1",
        ),
        pytest.param(
            [FOUR], {"nodes": 1, "cpus": "160", "SLURM_NTASKS": "2"},
            (f"4 of p100 per node, 2 {IDLE}", f"{step(2, 4)} {FOR_GPUS}", 40),
            id="-N 1 -n 2 --gres=gpu:2, the node to itself",
        ),
        pytest.param(
            ["gpu:p100:2(IDX:2-3)"],
            {"nodes": 1, "cpus": "40", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "20"},
            ("2 of p100 per node", f"{step(2, 2)} {FOR_GPUS}", 20),
            id="--oversubscribe -N 1 -n 2 -c 20 --gres=gpu:2",
        ),
        pytest.param(
            [FOUR], {}, (f"4 of p100 per node, 3 {IDLE}", f"{step(1, 4)} {FOR_GPUS}", 40), id="-N 2",
        ),
        pytest.param(
            ["craynetwork:1,gpu:8(IDX:0-7)"], {"cpus": "224(x2)", "SLURM_NTASKS": "16", "SLURM_GPUS": "16"},
            ("8 per node", f"{step(8, 8)} {FOR_GPUS}", 28), id="-N 2 -n 16 --gpus=16, without a type",
        ),
        pytest.param(
            [FOUR, "gpu:p100:2(IDX:0-1)"], {"SLURM_NTASKS": "6", "SLURM_GPUS": "6"},
            (f"2 to 4 of p100 per node, 1 {IDLE}", FOR_GPUS, 40), id="-N 2 -n 6 --gpus=6, unequal",
        ),
    ],
)  # fmt: skip
def test_a_job_on_gpus_starts_a_rank_per_gpu_with_cores_of_its_socket(batch, granted, settings, expected):
    (told, options, cpus), done = expected, batch(*granted, **settings)
    assert done.returncode == 0, done.stderr
    *first, call, environment = done.stdout.splitlines()
    assert [line.split(":")[0] for line in first] == ["nodes", "image", "threads", "gpus"]
    assert first[1].endswith("-cuda.sif")
    assert first[2:] == [f"threads: {cpus} per rank", f"gpus:    {told}"]
    srun, apptainer = call.split(" | ")
    assert srun == f"srun: --mpi=pmix --kill-on-bad-exit=1 {options}"
    assert " --nv " in apptainer
    assert environment.split() == ["CUDA_DEVICE_ORDER=PCI_BUS_ID", f"SRUN_CPUS_PER_TASK={cpus}"]


@pytest.mark.parametrize("granted", [[""], []], ids=["nodes without GPUs", "nothing told"])
def test_a_job_without_gpus_has_a_rank_per_node_and_no_option_for_them(batch, granted, tmp_path):
    (tmp_path / "root" / "nvidiactl").unlink()
    done = batch(*granted)
    *first, call, environment = done.stdout.splitlines()
    assert [line.split(":")[0] for line in first] == ["nodes", "image", "threads"]
    assert call.startswith("srun: --mpi=pmix --kill-on-bad-exit=1 | ")
    assert "--nv" not in call
    assert environment.split() == ["SRUN_CPUS_PER_TASK=160"]


def test_a_job_that_asked_for_no_gpu_where_there_are_some_is_told(batch):
    assert "gpus:    none: the job asked for none (sbatch --gpus-per-node=N)\n" in batch("").stdout


def test_a_posed_node_is_called_simulated_has_the_image_for_cpus_and_no_more_threads_than_cores(
    batch, tmp_path
):
    (tmp_path / "root" / "simulated").touch()
    done = batch(FOUR, cpus="640(x2)", SLURM_NTASKS="8")
    *first, call, _ = done.stdout.splitlines()
    assert first[1:] == [
        f"image:   {tmp_path}/shared/images/lab-{os.uname().machine}.sif",
        "threads: 96 per rank",
        "gpus:    4 of p100 (simulated) per node",
    ]
    assert f"{step(4, 4)} {FOR_GPUS.replace('cores', 'none')} | " in call
    assert "--nv" not in call
    assert "SRUN_CPUS_PER_TASK=20\n" in batch(FOUR, SLURM_NTASKS="16").stdout.replace(" ", "\n"), (
        "8 ranks a node"
    )


def test_gpus_that_the_image_cannot_use_are_told(batch, tmp_path):
    done = batch(FOUR, MINSKY_IMAGE=f"{tmp_path}/shared/images/lab-{os.uname().machine}.sif")
    assert "gpus:    4 of p100 per node, not used: the image is one for CPUs\n" in done.stdout
    assert "SRUN_CPUS_PER_TASK=160" in done.stdout
    assert "srun: --mpi=pmix --kill-on-bad-exit=1 | " in done.stdout


@pytest.mark.parametrize(
    ("granted", "ranks", "said"),
    [
        ([FOUR], "16", "8 ranks on a node have 4 GPUs there, .* sbatch --ntasks-per-node=4"),
        ([FOUR, ""], "2", "some nodes of this job have no GPUs, .* sbatch --gpus-per-node=N"),
    ],
)
def test_ranks_that_nccl_would_refuse_are_refused_before_they_start(batch, granted, ranks, said):
    done = batch(*granted, SLURM_NTASKS=ranks)
    assert done.returncode == 1
    assert re.fullmatch(f"minsky: {said}.*MINSKY_IMAGE\n", done.stderr)
    assert done.stdout == ""
