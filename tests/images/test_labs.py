"""What the labs reach, in the lab image: short forms, and with --long the workshop's whole trainings."""

import json
import re

import pytest

LEGS = ["x86_64-cpu", "x86_64-cpu-keras2"]


@pytest.fixture(scope="session", autouse=True)
def mnist(staged):
    """The figures are MNIST's."""


@pytest.fixture(params=LEGS)
def leg(request, lab_of):
    return lab_of(request.param)


@pytest.fixture(
    params=[(LEGS[0], 1), pytest.param((LEGS[1], 1), marks=pytest.mark.long), *((leg, 2) for leg in LEGS)]
)
def on(request, lab_of):
    """Run a program of the lab: on one rank, and on two of each leg."""
    target, ranks = request.param
    return lambda *words: lab_of(target).program(*words, ranks=ranks)


def close(value, wanted, difference):
    return abs(value - wanted) <= difference


# --- Linear regression -------------------------------------------------------------------------------------

CLOSED_FORM = {"w": 0.251635, "b": 0.798801, "cost": 0.076928837}  # least squares, to the digits shown


def test_the_line_is_that_of_the_closed_form(on):
    result = on("labs.linear_regression", "--learning-rate", ".04", "--epochs", "5000").result
    for name, wanted in CLOSED_FORM.items():
        assert close(result[name], wanted, 1e-5), (name, result[name])


@pytest.mark.long  # on 1, 2 and 3 ranks, step by step: test_a_lab_takes_the_steps_that_are_computed_by_hand
@pytest.mark.parametrize("ranks", [5, 17])
def test_the_line_is_the_same_on_any_number_of_ranks(lab, ranks):
    words = ("labs.linear_regression", "--epochs", "100", "--start", ".1", "--learning-rate", ".01")
    one, many = (lab.program(*words, ranks=count).result for count in (1, ranks))
    for name in ("w", "b", "cost"):
        assert close(many[name], one[name], 1e-6)


def test_a_learning_rate_beyond_the_limit_is_told_as_diverged_with_the_limit(lab):
    ran = lab.run(
        "for run in '1 .044' '1 .0445' '2 .1' '1 .3' '2 1'; do set -- $run\n"
        "  mpirun -n $1 --oversubscribe python -m labs.linear_regression --learning-rate $2 --results r$2\n"
        "  head -c 4 r$2/curves.png | tail -c 3; echo\n"
        "done"
    )
    assert ran.status == 0, ran.said
    results = [json.loads(line) for line in re.findall(r"(?m)^RESULT (.*)$", ran.said)]
    assert [result["learning_rate"] for result in results] == [0.044, 0.0445, 0.1, 0.3, 1]
    assert [result["diverged"] for result in results] == [False, True, True, True, True]
    assert [result["cost"] for result in results[1:]] == [None] * 4
    assert close(results[-1]["limit"], 0.0443, 1e-4)
    assert ran.said.count("Full-batch gradient descent does so from 0.0443 on") == 4
    assert re.findall("(?m)^PNG$", ran.said) == ["PNG"] * 5
    assert not re.search("Traceback|Warning", ran.said)
    assert max(len(line) for line in ran.said.splitlines() if not line.startswith("RESULT")) < 200


# Cost after 1000 epochs of a step per point at .01, or as said, from W = b = .1; computed in NumPy
PER_SAMPLE = {
    "": 0.079322,
    "--learning-rate .001": 0.098342,
    "--learning-rate .003": 0.090075,
    "--learning-rate .03": 0.077455,
    "--learning-rate .1": 0.081328,
    "--learning-rate .3": 0.141011,
    "--learning-rate 1": None,
    "--epochs 500": 0.085000,
    "--epochs 1500": 0.077665,
    "--epochs 2000": 0.077183,
    "--epochs 2500": 0.077044,
    "--epochs 3000": 0.077005,
    "--optimizer momentum": 0.077149,
    "--optimizer rmsprop": 0.080148,
    "--optimizer adam": 0.077074,
}
SHORT = {"", "--learning-rate 1", "--optimizer adam"}


@pytest.mark.parametrize(
    "words", [word if word in SHORT else pytest.param(word, marks=pytest.mark.long) for word in PER_SAMPLE]
)
def test_a_step_per_point_reaches_what_the_notebooks_rule_does(lab, words):
    ran = lab.program("labs.linear_regression", "--per-sample", "--start", ".1", *words.split())
    assert ran.result["cost"] == pytest.approx(PER_SAMPLE[words], abs=1e-6)


def test_a_step_per_point_is_refused_on_two_ranks(lab):
    ran = lab.program("labs.linear_regression", "--per-sample", ranks=2)
    assert ran.status == 1
    assert "which 2 ranks cannot share: use one (sbatch -N 1)" in ran.said
    assert "Traceback" not in ran.said


# --- Logistic regression -----------------------------------------------------------------------------------


def test_logistic_regression_reaches_its_cost_and_accuracy(on):
    result = on("labs.logistic_regression", "--global-batch-size", "100").result
    assert close(result["cost"], 0.3337, 0.001)
    assert close(result["accuracy"], 0.9137, 0.002)
    assert close(result["accuracy_first_3000"], 0.888, 0.002)


@pytest.mark.parametrize("ranks", [4, pytest.param(16, marks=pytest.mark.long)])
def test_a_learning_rate_that_grows_with_the_ranks_keeps_the_accuracy(lab, ranks):
    result = lab.program("labs.logistic_regression", ranks=ranks).result
    assert result["global_batch_size"] == 100 * ranks
    assert close(result["learning_rate"], 0.01 * ranks, 1e-6)
    assert close(result["accuracy"], 0.9137, 0.002)


# --- Fully connected network, convolutional network --------------------------------------------------------


def test_a_network_with_relu_and_hes_start_reads_96_of_100(on):
    ran = on("labs.neural_network", "--global-batch-size", "128")
    assert ran.result["accuracy"] >= 0.96
    said = "first test images (digits.png): labels [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], predictions [7, 2, 1, 0, "
    assert said in ran.said
    assert re.search(
        r"human error .*\n.*training error .*\n.*validation error .*\n.*test error .*\n.*bias", ran.said
    )
    assert [*ran.result["errors"]] == ["training", "validation", "test"]


def test_the_first_ten_test_images_are_a_picture_beside_the_curves(lab):
    ran = lab.run(
        "python -m labs.neural_network --steps 2 --results r\n"
        "for file in curves digits; do head -c 4 r/$file.png | tail -c 3; echo; done"
    )
    assert re.findall("(?m)^PNG$", ran.said) == ["PNG"] * 2, ran.said


@pytest.mark.parametrize(
    ("seed", "ranks"), [("1", 1), pytest.param("2", 1, marks=pytest.mark.long), ("1", 2)]
)
def test_a_network_as_published_is_linear_and_reaches_what_that_can(lab, seed, ranks):
    words = ("--as-published", "--global-batch-size", "128", "--seed", seed)
    ran = lab.program("labs.neural_network", *words, ranks=ranks)
    assert 0.82 <= ran.result["accuracy"] <= 0.89
    assert "all layers together are one linear map" in ran.said


@pytest.mark.long
@pytest.mark.parametrize(("seed", "ranks"), [("1", 1), ("2", 1), ("1", 2)])
def test_the_convolutional_network_as_published_reaches_what_was_published(leg, seed, ranks):
    words = ("--as-published", "--global-batch-size", "128", "--seed", seed)
    result = leg.program("labs.cnn", *words, ranks=ranks).result
    assert 0.94 <= result["accuracy"] <= 0.97
    assert 0.96 <= result["accuracy_first_256"] <= 0.99


# --- By hand: the same, in NumPy ---------------------------------------------------------------------------

SAME = {
    "linear_regression": ("--epochs 60 --learning-rate .01", 1e-6),
    "logistic_regression": ("--steps 60 --global-batch-size 120", 1e-6),
    "neural_network": ("--steps 50 --global-batch-size 120", 1e-3),
}


@pytest.mark.parametrize("name", SAME)
def test_a_lab_takes_the_steps_that_are_computed_by_hand_on_1_2_and_3_ranks(lab, name):
    options, difference = SAME[name]
    ran = lab.run(
        "for ranks in 1 2 3; do for program in labs labs.by_hand; do\n"
        f"  mpirun -n $ranks --oversubscribe python -m $program.{name} {options} --results $program$ranks\n"
        "  cat $program$ranks/result.json\n"
        "done; done"
    )
    assert ran.status == 0, ran.said
    curves = [
        json.loads(line)["history"]["loss"] for line in ran.said.splitlines() if line.startswith('{"lab"')
    ]
    assert len(curves) == 6
    assert curves[0][-1] < curves[0][0]
    for curve in curves:
        assert curve == pytest.approx(curves[1], rel=difference), f"not as by hand on one rank, {name}"
