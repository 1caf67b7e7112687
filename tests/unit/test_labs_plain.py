"""The first labs, as far as they need no TensorFlow."""

import numpy as np
import pytest

from labs import cnn, linear_regression, logistic_regression, neural_network
from labs.labkit import LabError, world


def ranks(size):
    return world.World(0, [world.Place("node1", "m", frozenset({0}), 1)] * size)


def test_more_ranks_than_points_are_refused_with_how_many_would_do():
    given = linear_regression.knobs().parse_args([])
    with pytest.raises(LabError, match="17 points cannot be dealt to 18 ranks: use 17 or fewer"):
        linear_regression.train(given, ranks(18))


def test_steps_that_follow_from_each_other_are_refused_on_several_ranks():
    given = linear_regression.knobs().parse_args(["--per-sample"])
    with pytest.raises(LabError, match="which 2 ranks cannot share: use one"):
        linear_regression.train(given, ranks(2))


def test_a_cost_of_any_size_takes_a_line_that_can_be_read():
    assert (
        linear_regression.words(*linear_regression.closed_form())
        == "cost 0.076928837  W 0.251635  b 0.798801"
    )
    assert len(linear_regression.words(-1e150, 1e149)) < 60
    assert linear_regression.cost(1e200, 0) == np.inf


@pytest.mark.parametrize(
    ("training", "validation", "means"),
    [
        (0.12, 0.13, "high bias: "),
        (0.001, 0.09, "high variance: "),
        (0.2, 0.4, "high bias and high variance: "),
        (0.027, 0.028, "low bias, low variance: "),
    ],
)
def test_errors_are_told_as_the_workshops_table_with_what_they_mean(training, validation, means):
    errors = {"training": training, "validation": validation, "test": 0.5}
    *rows, said = neural_network.verdict(errors).splitlines()
    assert [row.split(" error")[0].strip() for row in rows] == ["human", "training", "validation", "test"]
    assert rows[1].endswith(f"{training:.2%}")
    assert said.strip().startswith(means)


def test_hidden_layers_are_numbers_with_commas_or_refused(capsys):
    assert neural_network.knobs().parse_args(["--hidden", "64,32,16"]).hidden == [64, 32, 16]
    assert neural_network.knobs().parse_args([]).hidden == [256, 256]
    for wrong in ("0", "64,", "wide"):
        with pytest.raises(SystemExit):
            neural_network.knobs().parse_args(["--hidden", wrong])
        assert "is not a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_typed_beside_as_published_counts_in_whichever_order(order):
    def chosen(lab, *pairs):
        words = [["--as-published"], *pairs][::order]
        return lab.knobs().parse_args([word for pair in words for word in pair])

    alone = chosen(neural_network)
    assert (alone.init, alone.activation, alone.learning_rate) == ("published", "linear", 0.1)
    with_relu = chosen(neural_network, ["--activation", "relu"])
    assert (with_relu.init, with_relu.activation, with_relu.learning_rate) == ("published", "relu", 0.1)
    warm = chosen(cnn, ["--warmup", "50"])
    assert (warm.init, warm.learning_rate, warm.warmup) == ("published", 0.001, 50)
    assert neural_network.knobs().parse_args([]).init == "he"


def test_a_learning_rate_that_is_none_and_an_optimizer_that_is_unknown_cost_a_sentence(capsys):
    for lab in (linear_regression, logistic_regression, neural_network):
        for words, said in (
            (["--learning-rate", "0"], "'0' is not a number from 1e-09"),
            (["--optimizer", "sgd"], "choose from 'gd', 'momentum', 'rmsprop', 'adam'"),
        ):
            with pytest.raises(SystemExit) as left:
                lab.knobs().parse_args(words)
            assert left.value.code == 2
            assert said in capsys.readouterr().err
