"""The CNN learns what it must, on any number of ranks."""

import json
import re

import pytest


@pytest.fixture(scope="module")
def has_mnist(control, shared, variables):
    staged = control.file(f"{shared}/data/mnist/t10k-images-idx3-ubyte.gz").exists
    if not staged:
        pytest.skip("MNIST is not staged; set MINSKY_DATA to a mirror of it and type: make cluster")


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long), 3])
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
    return {count: fifty_steps(user, count)[1] for count in (1, 2)[: len(nodes)]}


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


def test_a_job_whose_time_is_nearly_up_or_that_is_requeued_saves_and_goes_on_and_shows_its_result_again(
    user, nodes, has_mnist, wait_until
):
    def again(number):
        """It waits; left alone it would for two minutes, since no node takes it again in the same second."""
        wait_until(lambda: user.show(number)["JobState"] == "PENDING", f"job {number} waits again", 90)
        user.check(f"scontrol update jobid={number} starttime=now+5")

    def trains(number, run, since):
        def steps():
            *_, said = ["", *user.run(f"cat work/cnn-{number}.out").stdout.split("threads:")[run:]]
            minute, second = map(int, user.show(number)["RunTime"].split(":")[1:])
            return re.search(r"(?m)^step +(\d+)", said) and 60 * minute + second > since

        wait_until(steps, f"run {run} of job {number} trains", 120)

    count = min(2, len(nodes))
    number = user.send(f"-N {count} ~/jobs/cnn_horovod.sh --global-batch-size 128 --steps 450")
    trains(number, 1, 21)
    user.check(f"scancel --signal=USR1 --batch {number}")  # what Slurm does for --signal=B:USR1@90
    again(number)
    trains(number, 2, 1)
    user.check(f"scontrol requeue {number}")
    again(number)
    job = user.end(number)
    assert job.state == "COMPLETED", job.output
    assert f"job {number} waits again, to go on from there" in job.output
    assert "stopped by SIGUSR1 after step" in job.output  # of SIGTERM nobody hears: srun has gone by then
    first, second = map(int, re.findall(r"continuing from step (\d+) in", job.output))
    assert 0 < first < second < 450, job.output
    assert len(json.loads(user.check(f"cat {job.result['results']}"))["history"]["loss"]) == 450
    user.check(f"scontrol requeue {number}")
    again(number)
    ended = user.end(number)
    assert ended.state == "COMPLETED", ended.output
    assert ended.output.count("RESULT ") == 2
    assert ended.result == job.result


@pytest.fixture
def trains(user, wait_until):
    """Start the lab, on scikit-learn's digits, and wait until it trains; the job's number."""

    def start(arguments, environment):
        number = user.send(arguments, environment=environment)
        wait_until(
            lambda: "\nstep " in user.run(f"cat work/cnn-{number}.out").stdout, f"{number} trains", 120
        )
        return number

    return start


def test_a_rank_that_is_killed_ends_the_job_at_once_with_its_reason(user, nodes, shared, trains):
    if len(nodes) < 2:
        pytest.skip("one node has the batch script, too; boot two with make cluster NODES=2")
    number = trains("-N 2 ~/jobs/cnn_horovod.sh --steps 20000", f"MINSKY_DATA_DIR={shared}/none")
    last = user.check(f"scontrol show hostnames {user.show(number)['NodeList']} | tail -n 1")
    user.check(f"srun --overlap --jobid={number} -N 1 -n 1 -w {last} pkill -KILL -f 'python -m labs.cnn'")
    job = user.end(number, 60)
    assert job.state == "FAILED", job.output
    assert re.search(rf"{last}: task 1: Killed", job.output), job.output


def test_a_job_that_is_cancelled_has_saved_and_another_goes_on_from_there(user, shared, trains):
    none = f"MINSKY_DATA_DIR={shared}/none"
    number = trains("-N 1 ~/jobs/cnn_horovod.sh --steps 300", none)
    user.check(f"scancel {number}")
    assert user.end(number, 60).state == "CANCELLED"
    job = user.submit(f"-N 1 ~/jobs/cnn_horovod.sh --steps 300 --results cnn-{number}", environment=none)
    assert job.state == "COMPLETED", job.output
    assert 0 < int(re.search(r"continuing from step (\d+) in", job.output)[1]) < 300


def test_a_job_says_where_it_runs_before_it_starts_to_train(user, nodes, shared):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh --steps 2")
    head = "\n".join(job.output.splitlines()[:12])
    for word in ("node", "thread", f"{shared}/images/lab-"):
        assert word in head, head


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), 2])
def test_without_mnist_it_trains_on_digits_and_says_so(user, nodes, shared, count):
    if count > len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes; boot it with make cluster NODES={count}")
    job = user.submit(f"-N {count} ~/jobs/cnn_horovod.sh", environment=f"MINSKY_DATA_DIR={shared}/none")
    assert job.state == "COMPLETED", job.output
    assert job.result["data"] == "digits"
    assert job.result["accuracy"] >= job.result["floor"] > 0.9, job.output
    assert "scikit-learn" in job.output
