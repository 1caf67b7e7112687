"""Multinomial logistic regression by hand. The lab is labs/logistic_regression.py.

With probabilities A = softmax(X W + b) and labels Y (one-hot), the derivative of the cross-entropy by the
scores is dZ = A - Y; so dW = 1/m X^T dZ and db = 1/m sum dZ, m being the images of a step, of which each rank
has some. Rows are samples; the workshop wrote them as columns.
"""

import argparse

import numpy as np

from labs.by_hand import shared
from labs.by_hand.shared import Ranks, Vector
from labs.labkit import datasets, options, plan, result, starts
from labs.logistic_regression import EPOCHS, GOALS, USUAL_BATCH

LAB = "by_hand/logistic_regression"


def knobs() -> options.Parser:
    """Options."""
    parser = options.Parser("by_hand.logistic_regression", "Trains one layer with softmax, by NumPy and MPI.")
    options.add_length(parser, "25 for MNIST, 200 for digits")
    options.add_batch(parser, USUAL_BATCH)
    parser.add_argument(
        "--learning-rate", type=options.number(1e-9, 1e6), default=0.01, help="for 100 images per step"
    )
    options.add_common(parser)
    return parser


def forward(weights: starts.Weights, x: Vector) -> Vector:
    """Scores Z (n, 10) of the digits, for pixels *x* (n, 784)."""
    return x @ weights["w1"] + weights["b1"]


def gradients(weights: starts.Weights, x: Vector, y: Vector, m: int) -> tuple[float, starts.Weights]:
    """Parts of the cost over *m* images, and of its derivatives, that these have.

    Args:
        weights: w1 (784, 10) and b1 (10,).
        x: this rank's images, (n, 784).
        y: their labels, one-hot, (n, 10).
        m: images of the step, of all ranks.
    """
    z = forward(weights, x)
    dz = shared.softmax(z) - y
    return shared.cross_entropy(z, y) / m, {"w1": x.T @ dz / m, "b1": dz.sum(axis=0) / m}


def main(given: argparse.Namespace, ranks: Ranks) -> None:
    """Train, test and tell."""
    data = datasets.flat(given.data_dir)
    images, labels = data.train
    course = plan.course(given, len(labels), ranks.size, epochs=EPOCHS[data.name])
    growth = course.batch / USUAL_BATCH
    rates = plan.learning_rates(
        given.learning_rate, growth=growth, rule="linear", warmup=0, steps=course.steps
    ).astype(np.float64)
    ranks.say(
        f"{LAB}: {ranks.place}\ndata: {len(labels):,} training images of {data.description}; "
        f"{course.steps} steps of {course.batch}; learning rate {rates[-1]:g}"
    )
    progress = result.Progress(ranks, course, batch=course.batch, unit="images", done=0)
    weights = starts.zeros(images.shape[1], 10)
    order = plan.orders(len(labels), course, ranks, seed=given.seed)  # Horovod: each rank has its own samples

    def slopes(step: int) -> tuple[float, starts.Weights]:
        rows = order(step)
        return gradients(weights, images[rows] / 255.0, shared.one_hot(labels[rows]), course.batch)

    losses = shared.descend(progress, weights, slopes, shared.gradient_descent(weights, rates))
    reached = {
        "lab": LAB,
        "data": data.name,
        "accuracy": shared.accuracy(lambda x: forward(weights, x), data.test),
        "cost": float(np.mean(losses[-course.per_epoch :])),
    }
    ranks.say(f"cost, mean of the last epoch: {reached['cost']:.6f}; of the 25th on MNIST it must be .3337")
    shared.finish(progress, GOALS[data.name], reached, losses)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with shared.start(LAB, chosen) as all_ranks:
        main(chosen, all_ranks)
