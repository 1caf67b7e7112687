"""The CNN learns what it must, on any number of ranks."""

import json

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


def test_the_first_fifty_losses_do_not_depend_on_the_number_of_ranks(user, nodes, has_mnist):
    losses = {}
    for count in (1, 2, 3)[: len(nodes)]:
        job = user.submit(
            f"-N {count} ~/jobs/cnn_horovod.sh --batch-size {120 // count} --dropout 0 --seed 7 "
            "--scaling none --warmup 0 --steps 50"
        )
        assert job.state == "COMPLETED", job.output
        losses[count] = json.loads(user.check(f"cat {job.result['results']}"))["history"]["loss"]
        assert len(losses[count]) == 50
    assert losses[1][0] != losses[1][-1]
    for count, values in losses.items():
        assert values == pytest.approx(losses[1], rel=1e-3), f"{count} ranks"


def test_a_job_says_where_it_runs_before_it_starts_to_train(user, nodes, shared):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh --steps 2")
    head = "\n".join(job.output.splitlines()[:12])
    for word in ("node", "thread", f"{shared}/images/lab-"):
        assert word in head, head


def test_without_mnist_it_trains_on_digits_and_says_so(user):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh", environment="MINSKY_DATA_DIR=/shared/none")
    assert job.state == "COMPLETED", job.output
    assert job.result["data"] == "digits"
    assert job.result["accuracy"] >= job.result["floor"] > 0.9
    assert "scikit-learn" in job.output
