"""A line through 17 points, by hand: two derivatives and an Allreduce. The lab is labs/linear_regression.py.

J = 1 / (2 n) sum (w x + b - y)^2, so dJ/dw = 1 / n sum (w x + b - y) x and dJ/db = 1 / n sum (w x + b - y):
sums over points, of which each rank has some.
"""

import argparse

import numpy as np

from labs.by_hand import shared
from labs.by_hand.shared import Ranks, Vector
from labs.labkit import LabError, options, plan, result, starts
from labs.labkit.datasets import POINTS
from labs.linear_regression import GOALS, closed_form, cost, limit

LAB = "by_hand/linear_regression"


def knobs() -> options.Parser:
    """Options."""
    parser = options.Parser("by_hand.linear_regression", "Fits a line to 17 points, by NumPy and MPI.")
    add, number = parser.add_argument, options.number
    add("--epochs", type=options.whole(1), default=5000, help="times through the points")
    add("--learning-rate", type=number(1e-9, 1e6), default=0.04, help="length of a step")
    add("--start", type=number(-1e6, 1e6), help="first W and b; without it drawn from N(0, 1)")
    options.add_common(parser)
    return parser


def gradients(w: float, b: float, x: Vector, y: Vector) -> tuple[float, starts.Weights]:
    """Parts of the cost, and of its derivatives by w and b, that the points *x*, *y* have."""
    n = POINTS.shape[1]
    error = w * x + b - y
    return float((error**2).sum() / (2 * n)), {"w": (error * x).sum() / n, "b": error.sum() / n}


def main(given: argparse.Namespace, ranks: Ranks) -> None:
    """Train and tell."""
    n = POINTS.shape[1]
    if ranks.size > n:
        raise LabError(f"{n} points cannot be dealt to {ranks.size} ranks: use {n} or fewer")
    x, y = POINTS[:, ranks.rank :: ranks.size]  # Horovod: each rank has its points
    ranks.say(
        f"{LAB}: {ranks.place}\n{n} points, all in each of {given.epochs} steps; learning rate "
        f"{given.learning_rate:g}, which from {limit():.4f} on diverges"
    )
    course = plan.Course(len(x), n, given.epochs, 1)
    progress = result.Progress(ranks, course, batch=n, unit="points", done=0)
    weights = starts.line(given.seed, given.start)
    update = shared.gradient_descent(weights, np.full(course.steps, given.learning_rate))
    losses = shared.descend(progress, weights, lambda _: gradients(*weights.values(), x, y), update)
    w, b = (float(value) for value in weights.values())
    if cost(w, b) > losses[0]:
        raise LabError(
            f"the cost has grown from {losses[0]:.3g} to {cost(w, b):.3g}: training diverges; use a "
            f"--learning-rate below {limit():.4f}"
        )
    for name, (slope, intercept) in {"reached": (w, b), "closed form": closed_form()}.items():
        end = cost(slope, intercept)
        ranks.say(f"{name + ':':<12} W {slope:.6f}  b {intercept:.6f}  cost {end:.9f}")
    reached = {"lab": LAB, "data": "points", "w": w, "b": b, "cost": cost(w, b)}
    shared.finish(progress, GOALS["points"], reached, losses)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with shared.start(LAB, chosen) as all_ranks:
        main(chosen, all_ranks)
