"""Back-propagation, held to the definition of a derivative."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labs import linear_regression
from labs.by_hand import linear_regression as line
from labs.by_hand import logistic_regression, neural_network
from labs.by_hand.shared import cross_entropy, one_hot
from labs.labkit import starts
from labs.labkit.datasets import POINTS

JOBS = Path(__file__).resolve().parents[2] / "jobs"
RANDOM = np.random.default_rng(3)
PIXELS, LABELS = RANDOM.random((6, 12)), one_hot(RANDOM.integers(0, 10, 6))


def slopes(loss, weights, by=1e-6):
    """The derivatives of *loss* by each of *weights*, from differences."""
    found = {}
    for name, value in weights.items():
        found[name] = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            kept = value[place]
            value[place] = kept + by
            more = loss()
            value[place] = kept - by
            found[name][place] = (more - loss()) / (2 * by)
            value[place] = kept
    return found


def agree(gradients, weights):
    _, computed = gradients(weights)
    for name, found in slopes(lambda: gradients(weights)[0], weights).items():
        assert computed[name] == pytest.approx(found, abs=1e-7), name


def test_the_slopes_of_the_line_are_the_derivatives_of_its_cost():
    agree(lambda at: line.gradients(at["w"], at["b"], *POINTS), starts.line(1))


def test_the_slopes_of_logistic_regression_are_the_derivatives_of_its_cost():
    weights = {name: RANDOM.normal(size=value.shape) for name, value in starts.zeros(12, 10).items()}
    agree(lambda at: logistic_regression.gradients(at, PIXELS, LABELS, 6), weights)


@pytest.mark.parametrize("activation", neural_network.ACTIVATIONS)
def test_the_slopes_of_the_network_are_the_derivatives_of_its_loss(activation):
    weights = starts.layers([12, 5, 4, 10], 1, "published")  # not He's, whose biases are at the kink of ReLU
    agree(lambda at: neural_network.gradients(at, PIXELS, LABELS, 6, activation), weights)


def test_parts_of_two_ranks_add_up_to_the_whole():
    weights = starts.layers([12, 5, 10], 1, "he")
    whole, first, second = (
        neural_network.gradients(weights, PIXELS[cut], LABELS[cut], 6, "relu")
        for cut in (slice(None), slice(2), slice(2, None))
    )
    assert whole[0] == pytest.approx(first[0] + second[0])
    for name in weights:
        assert whole[1][name] == pytest.approx(first[1][name] + second[1][name])


def test_an_error_of_thousands_costs_thousands():
    scores = np.array([[0.0, -4000.0], [-900.0, 100.0]])
    assert cross_entropy(scores, np.array([[0, 1], [0, 1]])) == pytest.approx(4000)


@pytest.mark.parametrize(("slope", "share"), [(3.0, 1), (-3.0, -1), (1e-8 / 0.001**0.5, 0.5)])
def test_adams_first_step_is_the_rate_but_for_slopes_as_small_as_tensorflows_epsilon(slope, share):
    weights = {"w1": np.zeros(1)}
    neural_network.adam(weights, np.array([0.01]))(0, {"w1": np.array([slope])})
    assert weights["w1"] == pytest.approx(-0.01 * share, rel=1e-5)  # TensorFlow holds .999 as .99900001


def test_the_closed_form_is_the_published_one_and_no_line_beside_it_costs_less():
    w, b = linear_regression.closed_form()
    assert (w, b) == pytest.approx((0.251635, 0.798801), abs=1e-6)
    assert linear_regression.cost(w, b) == pytest.approx(0.076928837, abs=1e-9)
    for dw, db in RANDOM.normal(0, 0.01, (20, 2)):
        assert linear_regression.cost(w + dw, b + db) > linear_regression.cost(w, b)


def test_beyond_the_limit_a_step_ends_farther_from_the_bottom_and_below_it_nearer():
    best = np.array(linear_regression.closed_form())
    curvature = np.array([[np.mean(POINTS[0] ** 2), np.mean(POINTS[0])], [np.mean(POINTS[0]), 1]])
    steepest = np.linalg.eigh(curvature)[1][:, -1]

    def after(rate):
        w, b = best + steepest
        slope = line.gradients(w, b, *POINTS)[1]
        return float(np.linalg.norm(np.array([w - rate * slope["w"], b - rate * slope["b"]]) - best))

    assert linear_regression.limit() == pytest.approx(0.0443, abs=1e-4)
    assert after(0.99 * linear_regression.limit()) < 1 < after(1.01 * linear_regression.limit())


def program(name, *arguments):
    """Run a lab by hand as one process, here, where mpi4py may be missing."""
    return subprocess.run(
        [sys.executable, "-m", f"labs.by_hand.{name}", *arguments],
        cwd=JOBS, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("linear_regression", ["--epochs", "0"], "'0' is not a whole number of 1 or more"),
        ("logistic_regression", ["--optimizer", "adam"], "unrecognized arguments: --optimizer adam"),
        ("neural_network", ["--optimizer", "sgd"], "choose from 'adam', 'gd'"),
        ("neural_network", ["--hidden", "256,,10"], "'' is not a whole number of 1 or more"),
    ],
)
def test_a_wrong_option_costs_a_sentence_and_status_2(name, arguments, said):
    done = program(name, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_where_there_is_no_mpi4py_it_says_where_to_run():
    if importlib.util.find_spec("mpi4py"):
        pytest.skip("mpi4py is installed here, so that nothing is missing")
    done = program("linear_regression")
    assert done.returncode == 1
    assert "has no module mpi4py: the labs run in the lab image" in done.stderr
    assert "Traceback" not in done.stderr


def job(*arguments, cwd):
    """Run the job script as a user without Slurm would, with this Python."""
    return subprocess.run(
        ["bash", JOBS / "by_hand.sh", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["cnn", "shared", "__init__", ""])
def test_a_name_that_is_no_lab_by_hand_is_answered_with_those_that_are(tmp_path, name):
    done = job(name, cwd=tmp_path)
    assert done.returncode == 1
    assert f"there is no lab '{name}' by hand: name linear_regression, logistic_regression or" in done.stderr


@pytest.mark.parametrize("name", ["linear_regression", "logistic_regression", "neural_network"])
def test_the_job_runs_the_lab_it_is_told_to_and_passes_its_options_on(tmp_path, name):
    done = job(name, "--no-such", cwd=tmp_path)
    assert done.returncode == 2
    assert f"by_hand.{name}: unrecognized arguments: --no-such" in done.stderr
