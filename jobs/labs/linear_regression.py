"""A line through 17 points, found by gradient descent; by one process or by many.

What it teaches
    Gradient descent, and how far a step may go. The cost of a line w x + b is half its mean squared distance
    from the points, J = 1 / (2 n) sum (w x + b - y)^2. Each rank (process) holds some of the points and
    computes its part of the gradient; Horovod adds the parts up (see `# Horovod:`), so that the result is the
    same on any number of ranks. The closed form says where it must end.

What you will see
    After some ten seconds cost, W and b, 20 times; at the end the closed form beside them, the line through
    the points and the cost over steps as a picture, and one line, `RESULT {...}`, for programs that compare
    runs. Where it diverges, it says so, and from which learning rate on that must be.

What to try
    --learning-rate .001, .003, .01, .03, .1, .3, 1: which is slow, which diverges, and why from .0443 on?
    --epochs 500 ... 3000; --optimizer gd, momentum, rmsprop, adam
    --per-sample: as the notebook, a step for each point in turn. Why can that not be done in parallel?
    jobs/sweeps/learning_rates.sh, epochs.sh, optimizers.sh: all of that, as one table and one picture

The notebook: TensorFlow-Examples, 2_BasicModels/linear_regression. `labs/by_hand/linear_regression.py` is the
same program without TensorFlow and Horovod.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import LabError, gradients, optimizers, options, plan, plot, starts, world
from labs.labkit.datasets import POINTS
from labs.labkit.goal import Goal
from labs.labkit.lazy import tf
from labs.labkit.plot import BLUE, INK, ORANGE, RED
from labs.labkit.training import DivergedError, Training
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

GOALS = {"points": Goal("cost", "at most", 0.0770, "the closed form has 0.076928837")}
LINES = 20  # of progress, as in the notebook: one for each 50 of its 1000 epochs
HUGE = 1e12  # cost from which on a picture shows no more of a training that diverges
USUAL = {False: (0.04, 5000), True: (0.01, 1000)}  # learning rate and epochs; per sample, the notebook's


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("linear_regression", "Fits a line to 17 points by gradient descent.")
    add, whole, number = parser.add_argument, options.whole, options.number
    add("--epochs", type=whole(1), help="times through the points; 5000, or 1000 per sample")
    add("--learning-rate", type=number(1e-9, 1e6), help="length of a step; 0.04, or 0.01 per sample")
    add("--optimizer", choices=optimizers.CLASSES, default="gd", help="how gradients become steps")
    add("--start", type=number(-1e6, 1e6), help="first W and b; without it drawn from N(0, 1)")
    add("--per-sample", action="store_true", help="a step for each point in turn, on one rank")
    options.add_common(parser)
    return parser


# --- The closed form ---------------------------------------------------------------------------------------


def cost(w: float, b: float) -> float:
    """Half the mean squared distance of the line from the points."""
    x, y = POINTS
    with np.errstate(over="ignore"):  # where training diverges
        return float(np.mean((w * x + b - y) ** 2) / 2)


def words(w: float, b: float) -> str:
    """Return the line and its cost as the notebook prints them."""
    return f"cost {cost(w, b):.9g}  W {w:.6g}  b {b:.6g}"


def closed_form() -> tuple[float, float]:
    """W and b of the line that no other beats (least squares)."""
    w, b = np.polyfit(*POINTS, 1)
    return float(w), float(b)


def limit() -> float:
    """Learning rate from which on full-batch gradient descent diverges: 2 over the largest curvature of J."""
    x = POINTS[0]
    curvature = np.array([[np.mean(x * x), np.mean(x)], [np.mean(x), 1]])
    return float(2 / np.linalg.eigvalsh(curvature).max())


# --- Training ----------------------------------------------------------------------------------------------


def training_step(weights: dict[str, Any], optimizer: Any, step: Any, ranks: World) -> Any:
    """Return what takes one step with some points, by their indices: this rank's share.

    It gives the cost before the step, and the seconds for which it waited for other ranks.
    """
    x, y = (tf.constant(part) for part in POINTS)
    variables = [weights["w"], weights["b"]]

    def take(rows: Any) -> Any:
        with tf.GradientTape() as tape:
            error = weights["w"] * tf.gather(x, rows) + weights["b"] - tf.gather(y, rows)
            # Horovod: the parts of the ranks add up to the cost, however many points each has.
            part = tf.reduce_sum(error**2) / (2 * POINTS.shape[1])
        summed, waited = gradients.add_up(tape.gradient(part, variables))
        optimizer.apply_gradients(zip(summed, variables, strict=True), global_step=step)
        return part * ranks.size, waited  # of the costs that ranks tell, the mean is kept

    return take


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, and tell."""
    points = POINTS.shape[1]
    if given.per_sample and ranks.size > 1:
        raise LabError(
            "--per-sample takes a step for each point, and each from where the last one ended, which "
            f"{ranks.size} ranks cannot share: use one (sbatch -N 1), or leave --per-sample away"
        )
    if ranks.size > points:
        raise LabError(f"{points} points cannot be dealt to {ranks.size} ranks: use {points} or fewer")
    rate, epochs = USUAL[given.per_sample]
    rate, epochs = given.learning_rate or rate, given.epochs or epochs
    display = max(1, epochs // LINES)
    if given.per_sample:
        course = plan.Course(1, 1, epochs * points, points, display * points)
        rows = np.tile(np.arange(points), display)[:, None]
    else:
        mine = np.arange(points)[ranks.rank :: ranks.size]  # Horovod: each rank has its points
        course = plan.Course(len(mine), points, epochs, 1, display)
        rows = np.tile(mine, (display, 1))
    ranks.say(
        f"linear_regression: {ranks.place}\n"
        f"{'a step for each point' if given.per_sample else 'full batch'}, optimizer {given.optimizer}\n"
        f"learning rate set to {rate:g}\n"
        f"# of epochs set to {epochs}\n"
        f"display sampling set to {display}"
    )
    first = starts.line(given.seed, given.start)
    weights = {name: tf.Variable(value) for name, value in first.items()}
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.make(given.optimizer, np.full(course.steps, rate), step)
    kept = ("optimizer", "learning_rate", "start", "per_sample", "seed")
    training = Training(
        ranks,
        given,
        "linear_regression",
        "points",
        course,
        training_step(weights, optimizer, step, ranks),
        state={"weights": weights, "optimizer": optimizer, "step": step},
        settings={name: getattr(given, name) for name in kept},
        measures=("loss",),
        unit="points",
    )

    def line() -> tuple[float, float]:
        return float(weights["w"]), float(weights["b"])

    try:
        training.run(lambda _: rows, lambda: cost(*line()), lambda *_: words(*line()))
        diverged = cost(*line()) > cost(**first)
    except DivergedError:
        diverged = True
    if diverged:
        ranks.say(
            f"diverged: with a learning rate of {rate:g} the steps lead away from the bottom. Full-batch "
            f"gradient descent does so from {limit():.4f} on: 2 over the largest curvature of the cost"
        )
    ranks.say(f"closed form: {words(*closed_form())}")
    reached = None if diverged else line()
    w, b = reached or (None, None)
    training.finish(
        GOALS["points"],
        {
            "learning_rate": rate,
            "optimizer": given.optimizer,
            "diverged": diverged,
            "cost": cost(*reached) if reached else None,
            "w": w,
            "b": b,
            "limit": limit(),
        },
        partial(draw, reached),
    )


# --- Picture -----------------------------------------------------------------------------------------------


def draw(
    line: tuple[float, float] | None, file: Path, title: str, history: dict[str, Any], goal: Goal
) -> None:
    """Draw the points with the fitted *line*, and the cost over steps beside that of the closed form."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2)
    x, y = POINTS
    left.plot(x, y, "o", color=RED, label="Original data")
    if line:
        ends = np.array([x.min(), x.max()])
        left.plot(ends, line[0] * ends + line[1], color=BLUE, label="Fitted line")
    else:
        full = f"diverged; full-batch gradient descent does so from a learning rate of {limit():.4f} on"
        left.set_title(full, fontsize=9, color=ORANGE)
    left.set(xlabel="x", ylabel="y")
    costs = [value for value in history["loss"] if value < HUGE]
    right.plot(np.arange(1, len(costs) + 1), costs, color=BLUE, label="cost before each step")
    right.axhline(cost(*closed_form()), color=INK, linewidth=1, linestyle=":", label="closed form")
    right.set(xlabel="step", ylabel=goal.measure, xscale="log", yscale="log")
    for axes in (left, right):
        plot.quiet(axes)
        axes.legend(frameon=False)
    figure.savefig(file)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
