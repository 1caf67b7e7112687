"""The CNN learns what it must, on any number of ranks."""

import json
import re

import pytest


@pytest.fixture(scope="module")
def has_mnist(control, shared, variables):
    staged = control.file(f"{shared}/data/mnist/t10k-images-idx3-ubyte.gz").exists
    if not staged:
        pytest.skip("MNIST is not staged; set MINSKY_DATA to a mirror of it and type: make cluster")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_cnn_reaches_its_accuracy_with_default_settings(user, nodes, has_mnist, count):
    if count > len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes; boot it with make cluster NODES={count}")
    job = user.submit(f"-N {count} ~/jobs/cnn_horovod.sh")
    assert job.state == "COMPLETED", job.output
    assert job.result["data"] == "mnist"
    assert job.result["ranks"] == count
    assert job.result["nodes"] == count
    assert job.result["accuracy"] >= 0.98, job.output
    assert json.loads(user.check(f"cat {job.result['results']}"))["accuracy"] == job.result["accuracy"]
    assert user.check(f"head -c 4 {job.result['plot']} | tail -c 3") == "PNG"
    assert job.output.rstrip().splitlines()[-1].startswith("RESULT ")


def fifty_steps(user, count, more=""):
    """Train *count* ranks with the same global batch, nothing left to chance; the job, and its losses."""
    job = user.submit(
        f"-N {count} ~/jobs/cnn_horovod.sh --batch-size {120 // count} --dropout 0 --seed 7 "
        f"--scaling none --warmup 0 --steps 50 {more}"
    )
    assert job.state == "COMPLETED", job.output
    return job, json.loads(user.check(f"cat {job.result['results']}"))["history"]["loss"]


@pytest.fixture(scope="module")
def fifty_losses(user, nodes, has_mnist):
    return {count: fifty_steps(user, count)[1] for count in (1, 2, 3)[: len(nodes)]}


def test_the_first_fifty_losses_do_not_depend_on_the_number_of_ranks(fifty_losses):
    assert fifty_losses[1][0] != fifty_losses[1][-1]
    for count, values in fifty_losses.items():
        assert len(values) == 50
        assert values == pytest.approx(fifty_losses[1], rel=1e-3), f"{count} ranks"


@pytest.fixture(scope="module")
def begun(user, nodes, has_mnist):
    """The number of ranks, and the results directory, of a training that stopped after twenty steps."""
    count = min(2, len(nodes))
    user.check("rm -rf work/begun")
    fifty_steps(user, count, "--steps 20 --results begun")
    return count, "begun"


def test_a_training_that_stopped_half_way_continues_as_if_it_had_not(user, begun, fifty_losses):
    count, directory = begun
    job, losses = fifty_steps(user, count, f"--results {directory}")
    assert "continuing from step 20" in job.output
    assert losses == pytest.approx(fifty_losses[count], rel=1e-3)


def test_a_checkpoint_of_other_settings_is_refused_with_both_values(user, begun):
    job = user.submit(f"-N 1 ~/jobs/cnn_horovod.sh --batch-size 60 --dropout 0 --seed 7 --results {begun[1]}")
    assert job.state == "FAILED"
    assert "holds a checkpoint with global batch 120, this run has 60" in job.output
    assert "Traceback" not in job.output


def test_a_requeued_job_continues_from_its_checkpoint_and_one_that_had_ended_shows_its_result_again(
    user, has_mnist, wait_until
):
    def requeue():
        user.check(f"scontrol requeue {number}")
        wait_until(lambda: user.show(number)["JobState"] == "PENDING", f"job {number} waits again")
        # left alone it waits for two minutes, until the credential of its former run has expired
        user.check(f"scontrol update jobid={number} starttime=now")
        return user.end(number)

    number = user.send("-N 1 ~/jobs/cnn_horovod.sh --batch-size 32 --steps 400")
    saved = f"work/cnn-{number}/checkpoints/checkpoint"
    wait_until(lambda: user.run(f"test -e {saved}").rc == 0, f"a checkpoint in ~/{saved}", 300)
    job = requeue()
    assert job.state == "COMPLETED", job.output
    assert re.search("continuing from step [123]00 in", job.output), job.output
    assert job.result["steps"] == 400
    assert len(json.loads(user.check(f"cat {job.result['results']}"))["history"]["loss"]) == 400
    again = requeue()
    assert again.state == "COMPLETED", again.output
    assert again.output.count("RESULT ") == 2
    assert again.result == job.result


def test_a_job_says_where_it_runs_before_it_starts_to_train(user, nodes, shared):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh --steps 2")
    head = "\n".join(job.output.splitlines()[:12])
    for word in ("node", "thread", f"{shared}/images/lab-"):
        assert word in head, head


@pytest.mark.parametrize("count", [1, 2])
def test_without_mnist_it_trains_on_digits_and_says_so(user, nodes, shared, count):
    if count > len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes; boot it with make cluster NODES={count}")
    job = user.submit(f"-N {count} ~/jobs/cnn_horovod.sh", environment=f"MINSKY_DATA_DIR={shared}/none")
    assert job.state == "COMPLETED", job.output
    assert job.result["data"] == "digits"
    assert job.result["accuracy"] >= job.result["floor"] > 0.9, job.output
    assert "scikit-learn" in job.output
