"""The labs by hand, where they run: in the lab image, and on an emulated POWER8 that has no TensorFlow."""

import json
import re

import pytest

from minsky import report
from minsky.images import build
from minsky.images.recipes import image

STEPS = {
    "linear_regression": "--epochs 40",
    "logistic_regression": "--steps 20 --global-batch-size 60",
    "neural_network": "--steps 4 --global-batch-size 60 --hidden 16",
}


def losses(said):
    return [json.loads(line)["history"]["loss"] for line in said.splitlines() if line.startswith('{"lab"')]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_line_by_hand_is_that_of_the_closed_form(lab, ranks):
    ran = lab.program("labs.by_hand.linear_regression", ranks=ranks)
    reached = [ran.result[name] for name in ("w", "b", "cost")]
    assert reached == pytest.approx([0.251635, 0.798801, 0.076928837], abs=1e-6)
    assert "closed form: W 0.251635  b 0.798801  cost 0.076928837" in ran.said


@pytest.mark.parametrize("ranks", [1, 2])
def test_logistic_regression_by_hand_reaches_its_cost_and_accuracy(lab, staged, ranks):
    words = ("labs.by_hand.logistic_regression", "--global-batch-size", "100")
    result = lab.program(*words, ranks=ranks).result
    assert result["cost"] == pytest.approx(0.3337, abs=0.001)
    assert result["accuracy"] == pytest.approx(0.9137, abs=0.002)


def test_the_network_by_hand_reads_96_of_100(lab, staged):
    ran = lab.program("labs.by_hand.neural_network", "--batch-size", "64", ranks=2)
    assert ran.result["accuracy"] >= 0.96
    assert (ran.result["data"], ran.result["ranks"]) == ("mnist", 2)
    assert report.summarise(ran.result).row_count >= 5


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        ("--steps 50 --global-batch-size 120", 1e-4),
        ("--steps 5 --init published --activation linear --learning-rate .1", 1e-5),  # losses of thousands
        ("--steps 5 --init published --activation sigmoid --learning-rate .1", 1e-5),
    ],
)
def test_the_network_by_hand_is_tensorflows_wherever_it_starts(lab, staged, words, difference):
    ran = lab.run(
        "for program in labs.by_hand labs; do\n"
        f"  python -m $program.neural_network {words} --results $program; cat $program/result.json\n"
        "done"
    )
    hand, tensorflow = losses(ran.said)
    assert hand == pytest.approx(tensorflow, rel=difference)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("logistic_regression --global-batch-size 100", "100 does not divide among 3 ranks: use --global"),
        (
            "linear_regression --learning-rate 1",
            r"the loss is inf at step \d+: training diverges; use a smaller",
        ),
        ("linear_regression --learning-rate .045", "use a --learning-rate below 0.0443"),
        ("linear_regression --results /proc/x", "results cannot be written to /proc/x .*--results"),
    ],
)
def test_what_cannot_work_costs_a_sentence_and_no_result(lab, words, said):
    ran = lab.run(f"mpirun -n 3 --oversubscribe python -m labs.by_hand.{words}")
    assert ran.status == 1
    assert re.search(f"rank 0 on .* failed: .*{said}", ran.said), ran.said
    assert not re.search("Traceback|Warning|RESULT", ran.said), ran.said


# --- POWER8 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def power(lab_of):
    """The lab's image for POWER8, and what its programs need in their environment to run here."""
    lab = lab_of("ppc64le-cpu")
    return lambda script, **more: lab.run(script, more=build.emulate(image("lab", "ppc64le-cpu")) | more)


@pytest.mark.parametrize("name", STEPS)
def test_two_ranks_of_a_power8_take_the_steps_of_x86_64(lab, power, staged, name):
    script = f"python -m labs.by_hand.{name} {STEPS[name]} --results r; cat r/result.json"
    here, there = lab.run(script), power(f"uname -m; mpirun -n 2 --oversubscribe {script}")
    assert (here.status, there.status) == (0, 0), there.said
    assert there.said.startswith("ppc64le\n")
    assert losses(there.said)[0] == pytest.approx(losses(here.said)[0], rel=1e-9)


def test_a_power8_without_mnist_says_how_to_get_it(power):
    ran = power("python -m labs.by_hand.logistic_regression", MINSKY_DATA_DIR="/none")
    assert ran.status == 1
    assert "no scikit-learn here, whose digits would do: stage MNIST (python -m minsky.data fetch" in ran.said
    assert "Traceback" not in ran.said
