"""The labs' plumbing, as far as it needs no TensorFlow."""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labs.labkit import LabError, datasets, plan, result, world
from labs.labkit.goal import Goal

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def ranks(size, *, threads=1, cpus=(0, 1), machine="m"):
    return [world.Place(f"node{n + 1}", machine, frozenset(cpus), threads) for n in range(size)]


def orders(batch, size, epoch=0):
    return [
        plan.order(1000, batch, world.World(rank, ranks(size)), seed=1, epoch=epoch) for rank in range(size)
    ]


def test_the_same_global_batch_holds_the_same_samples_on_1_2_and_3_ranks():
    one, two, three = (np.concatenate(orders(120 // n, n), axis=1) for n in (1, 2, 3))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)


def test_no_sample_is_seen_twice_in_an_epoch_and_each_epoch_has_another_order():
    first, second = (np.concatenate(orders(30, 3, epoch), axis=1).ravel() for epoch in (0, 1))
    assert len(set(first)) == len(first) == 990
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.concatenate(orders(30, 3, 0), axis=1).ravel())


def test_all_ranks_take_the_same_number_of_steps_though_their_shares_are_unequal():
    assert {len(order) for order in orders(7, 3)} == {plan.steps_per_epoch(1000, 7, 3)} == {47}


def test_fewer_samples_than_a_step_takes_are_refused_with_what_would_do():
    with pytest.raises(LabError, match="use --batch-size 333 or less"):
        plan.steps_per_epoch(1000, 334, 3)
    with pytest.raises(LabError, match="use fewer ranks"):
        plan.steps_per_epoch(2, 1, 3)


def given(**knobs):
    return argparse.Namespace(
        **{"batch_size": 100, "global_batch_size": None, "steps": None, "epochs": None} | knobs
    )


def test_a_course_is_as_long_as_asked_in_epochs_or_steps():
    assert plan.course(given(), 1000, 2, epochs=3) == plan.Course(100, 200, steps=15, per_epoch=5)
    assert plan.course(given(epochs=1), 1000, 2, epochs=3).steps == 5
    assert plan.course(given(steps=7), 1000, 2, epochs=3).epochs == pytest.approx(1.4)


def test_a_global_batch_is_divided_among_the_ranks_or_refused_with_those_that_can_be():
    assert plan.course(given(global_batch_size=120), 1200, 3, epochs=1) == plan.Course(40, 120, 10, 10)
    with pytest.raises(
        LabError, match="100 does not divide among 3 ranks: use --global-batch-size 99 or 102"
    ):
        plan.course(given(global_batch_size=100), 1000, 3, epochs=1)
    with pytest.raises(LabError, match="2 does not divide among 3 ranks: use --global-batch-size 3"):
        plan.course(given(global_batch_size=2), 1000, 3, epochs=1)


def test_the_learning_rate_warms_up_from_one_ranks_to_that_of_all():
    rates = plan.learning_rates(0.1, growth=4, rule="linear", warmup=10, steps=20)
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.25)
    assert rates[10:] == pytest.approx(np.full(10, 0.4))
    assert plan.learning_rates(0.1, growth=4, rule="sqrt", warmup=0, steps=2)[-1] == pytest.approx(0.2)
    assert plan.learning_rates(0.1, growth=4, rule="none", warmup=9, steps=20)[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("usable", "environment", "expected"),
    [
        (8, {}, 8),
        (8, {"SLURM_CPUS_PER_TASK": "4"}, 4),
        (2, {"SLURM_CPUS_PER_TASK": "160"}, 2),
        (2, {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 1),
        (1, {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 1),
    ],
)
def test_a_rank_takes_the_threads_it_was_granted_and_no_more_than_there_are_cpus(
    usable, environment, expected
):
    assert world.threads(usable, environment) == expected


def version_1(group, quota):
    return {f"cpu/{group}cpu.cfs_quota_us": str(quota), f"cpu/{group}cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/job/step", {"job/cpu.max": "250000 100000", "job/step/cpu.max": "max 100000"}, 2),
        ("0::/job/step", {"job/cpu.max": "50000 100000"}, 1),
        ("0::/job/step", {"job/step/cpu.max": "max 100000"}, 8),
        ("4:cpu,cpuacct:/job", version_1("job/", 300_000), 3),
        ("4:cpu,cpuacct:/gone", version_1("", 400_000), 4),
        ("4:cpu:/job", version_1("job/", -1), 8),
        ("5:cpuset:/job", version_1("job/", 100_000), 8),
        (None, {}, 8),
    ],
)
def test_cpus_are_those_of_the_affinity_or_fewer_by_a_cgroups_quota(
    group, files, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (texts | ({"proc/self/cgroup": f"{group}\n"} if group else {})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert world.usable(tmp_path) == expected


def test_each_rank_of_a_node_has_a_gpu_of_its_own_or_the_one_that_it_was_shown():
    assert [world.gpu(rank, 4, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [world.gpu(rank, 2, 4) for rank in range(2)] == [0, 1]
    assert [world.gpu(rank, 4, 1) for rank in range(4)] == [0, 0, 0, 0]
    with pytest.raises(LabError, match=r"4 ranks on .* have 2 GPUs, .*: start 2 ranks on a node"):
        world.gpu(0, 4, 2)


def test_ranks_that_share_cores_are_called_a_run_for_correctness():
    assert "3 ranks with 6 threads share 2 CPUs" in world.crowding(ranks(3, threads=2))
    assert world.crowding(ranks(2)) == ""
    assert world.crowding([*ranks(1, threads=2, machine="a"), *ranks(1, threads=2, machine="b")]) == ""


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """MNIST in form, but all black and all zeros."""
    directory = tmp_path_factory.mktemp("data") / "mnist"
    directory.mkdir()
    for prefix, count in (("train", 60_000), ("t10k", 10_000)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
            content = gzip.compress(header + bytes(int(np.prod(shape))), 1)
            (directory / f"{prefix}-{kind}-ubyte.gz").write_bytes(content)
    return directory


def test_mnist_is_read_where_it_was_staged(blank):
    data = datasets.handwritten(blank.parent)
    assert data.name == "mnist"
    assert data.train[0].shape == (60_000, 28, 28, 1)
    assert data.test[1].shape == (10_000,)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-20]), "cannot be read"),
        (lambda file: file.write_bytes(b"<html>not found</html>"), "cannot be read"),
        (lambda file: file.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(9))), "is damaged"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_a_damaged_data_file_is_refused_by_name_with_the_command_that_mends_it(tmp_path, blank, harm, said):
    shutil.copytree(blank, tmp_path / "mnist")
    file = tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz"
    harm(file)
    mend = f"site.yml.*python -m minsky.data fetch mnist --to {tmp_path}"
    with pytest.raises(LabError, match=f"{file} {said}.*{mend}"):
        datasets.handwritten(tmp_path)


def test_results_lie_in_the_directory_of_the_job_one_place_per_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert result.directory("cnn", None) == tmp_path / "cnn-17"
    assert result.directory("cnn", Path("mine")) == tmp_path / "mine"
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=f"results cannot be written to {tmp_path}/file/deep .*--results"):
        result.directory("cnn", Path("file/deep"))


def test_a_result_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "result.json"
    result.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        result.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


FLOOR = Goal("accuracy", "at least", 0.98, "on all test images")
CEILING = Goal("cost", "at most", 0.08, "by the closed form")


def test_a_goal_is_a_floor_or_a_ceiling_and_tells_its_verdict():
    assert FLOOR.told(0.98) == {
        "measure": "accuracy", "at_least": 0.98, "source": "on all test images", "reached": True,
    }  # fmt: skip
    assert CEILING.told(0.079)["at_most"] == 0.08
    assert [goal.reached(0.5) for goal in (FLOOR, CEILING)] == [False, False]
    assert FLOOR.verdict(0.97) == (
        "0.9700; with default settings at least 0.98 (on all test images): NOT REACHED"
    )


@pytest.fixture
def finish(tmp_path, capsys):
    """End a training of two ranks; the lines it printed, and the last of them as a RESULT."""

    def run(goal=FLOOR, *, done=0, trained=2, **reached):
        two, course = world.World(0, ranks(2)), plan.Course(4, 8, done + trained, 10)
        progress = result.Progress(two, course, batch=8, unit="words", done=done)
        for _ in range(trained):
            progress.add(1, 0.5, 0.2, 0.7)
        reached = {"lab": "x", "data": "y", "history": {"loss": [0.5]}} | reached
        result.finish(progress, tmp_path, goal, reached, lambda *_: None)
        *lines, last = capsys.readouterr().out.splitlines()
        return "\n".join(lines), json.loads(last.removeprefix("RESULT "))

    return run


def test_a_result_tells_goal_speed_and_place_whatever_the_lab_measures(finish):
    text, told = finish(CEILING, cost=0.1, trained=3)
    assert (told["steps"], told["ranks"], told["nodes"], told["machines"]) == (3, 2, 2, 1)
    assert told["goal"] == CEILING.told(0.1)
    assert told["words_per_s"] == pytest.approx(2 * told["words_per_s_per_rank"], abs=0.2)
    place = "2 ranks on 2 simulated nodes of one machine (node1 node2), 1 thread each"
    assert (told["words_per_s"], told["epoch_s"]) == (16, 5)
    assert (told["computation_s"], told["allreduce_s"]) == (0.6, 0.4)
    for row in ("cost      0.1000; with", "8 words/s per rank, 16 in total; an epoch takes 5.0 s", place):
        assert row in text
    assert "0.6 s in computation, 0.4 s waiting in all-reduce" in text


def test_a_speed_that_was_not_measured_is_not_told_as_zero(finish):
    text, told = finish(accuracy=0.99, trained=1)
    assert told["words_per_s"] is None
    assert "too few steps to tell" in text


def test_where_nothing_was_left_to_train_the_result_that_stands_is_shown_and_kept(finish, tmp_path):
    _, first = finish(accuracy=0.99, trained=3)
    kept = (tmp_path / "result.json").read_text()
    text, again = finish(accuracy=0.5, done=3, trained=0)
    assert again == first
    assert (tmp_path / "result.json").read_text() == kept
    assert "all 3 steps had been trained" in text
    _, longer = finish(accuracy=0.5, done=4, trained=0)
    assert longer["steps"] == 4, "a result of fewer steps does not stand for one of more"


def lab(*arguments):
    """Run the CNN lab as a student would, here, where there is no TensorFlow."""
    return subprocess.run(
        [sys.executable, "-m", "labs.cnn", *arguments], cwd=JOBS, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epocs", "2"], "unrecognized arguments: --epocs 2"),
        (["--optimizer", "sgd"], "choose from 'gd', 'momentum', 'rmsprop', 'adam'"),
        (["--batch-size", "0"], "'0' is not a whole number of 1 or more"),
        (["--learning-rate", "fast"], "'fast' is not a number from 1e-09 to"),
        (["--dropout", "1"], "'1' is not a number from 0 to below 1"),
    ],
)
def test_a_wrong_option_costs_a_sentence_and_status_2(arguments, said):
    done = lab(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"SLURM_PROCID": "2"}, 2),
        ({"SLURM_PROCID": "2", "PMIX_RANK": "2"}, 2),
        ({"SLURM_PROCID": "0", "OMPI_COMM_WORLD_RANK": "1"}, 1),  # mpirun in a batch script
        ({"SLURM_PROCID": "1", "OMPI_COMM_WORLD_RANK": "0"}, 0),
    ],
)
def test_a_rank_knows_its_number_from_whichever_launcher_started_it(environment, rank):
    assert world.launch_rank(environment) == rank


def test_where_all_ranks_fail_alike_the_others_wait_in_silence_for_the_end_that_rank_0_brings():
    command, other = [sys.executable, "-m", "labs.cnn", "--no-such"], {"OMPI_COMM_WORLD_RANK": "1"}
    with subprocess.Popen(command, cwd=JOBS, env=os.environ | other, stderr=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)  # as late as a rank 0 may be under load
        process.terminate()
        assert process.communicate()[1] == b""
        assert process.returncode == 2


def test_a_lab_outside_its_image_says_where_to_run_it():
    done = lab()
    if "TensorFlow" in done.stdout:
        pytest.skip("TensorFlow is installed here")
    assert done.returncode == 1
    assert "has no module tensorflow: the labs run in the lab image" in done.stderr
