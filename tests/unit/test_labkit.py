"""The labs' plumbing, as far as it needs no TensorFlow."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

JOBS = Path(__file__).resolve().parents[2] / "jobs"
sys.path.insert(0, str(JOBS))

from labs import cnn  # noqa: E402 - the labs are no installed package: they lie beside their job scripts
from labs.labkit import LabError, datasets, plan, result, world  # noqa: E402


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
    with pytest.raises(LabError, match=f"{file} {said}.*python -m minsky.data fetch mnist"):
        datasets.handwritten(tmp_path)


def test_without_mnist_the_digits_of_scikit_learn_come_in_its_shape(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is in the lab image, not in .venv")
    data = datasets.handwritten(tmp_path)
    assert data.name == "digits"
    assert data.train[0].shape == (1437, 28, 28, 1)
    assert data.train[0].dtype == np.uint8
    assert data.train[0].max() == 255
    assert np.bincount(data.test[1]).min() > 20


def test_a_loss_that_is_no_number_ends_the_training_with_what_to_change():
    progress = result.Progress(world.World(0, ranks(1)), steps=2, batch=1, done=0)
    progress.tick(0.5)
    with pytest.raises(LabError, match=r"the loss is nan at step 2.*--learning-rate"):
        progress.tick(float("nan"))


def test_results_lie_in_the_directory_of_the_job_one_place_per_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert result.directory("cnn", None) == tmp_path / "results" / "cnn-17"
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


def test_the_summary_puts_the_accuracy_beside_its_floor():
    told = {"accuracy": 0.97, "floor": 0.98, "data": "mnist", "steps": 9, "seconds": 1.0}
    told |= {"images_per_s": 10, "images_per_s_per_rank": 5, "results": "r.json", "plot": "c.png"}
    text = result.summary(world.World(0, ranks(2)), told)
    assert "0.9700 on all test images of mnist; floor with default settings 0.98: NOT REACHED" in text
    assert "2 ranks on 2 nodes (node1 node2), 1 thread each" in text


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


def test_a_lab_outside_its_image_says_where_to_run_it():
    done = lab()
    if "TensorFlow" in done.stdout:
        pytest.skip("TensorFlow is installed here")
    assert done.returncode == 1
    assert "tensorflow is not installed here: the labs run inside the lab image" in done.stderr


def test_the_options_tell_what_they_do():
    for action in cnn.knobs()._actions:
        assert action.help, action.option_strings
