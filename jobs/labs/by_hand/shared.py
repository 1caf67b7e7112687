"""What the programs by hand share: the ranks and their one exchange, the descent, softmax, how it is told."""

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labs.labkit import LabError, result, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import MPI
from labs.labkit.result import Progress
from labs.labkit.starts import Weights
from labs.labkit.world import Place, World

Vector = npt.NDArray[np.float64]
Update = Callable[[int, Weights], None]  # takes a step, given its number from 0 and the slopes of all weights


@dataclass(frozen=True)
class Ranks(World):
    """The ranks of this run, MPI's communicator, and where rank 0 writes the result."""

    comm: Any = None
    results: Path = Path()

    def add_up(self, parts: list[Any]) -> list[Any]:
        """Return the sums of *parts*, arrays and numbers, over all ranks, by one Allreduce.

        All go into one buffer, as Horovod's tensor fusion does it: a message costs time, however short.
        """
        buffer = np.concatenate([np.ravel(part) for part in parts])
        self.comm.Allreduce(MPI.IN_PLACE, buffer, op=MPI.SUM)  # Horovod: this is what it does at each step
        pieces = np.split(buffer, np.cumsum([np.size(part) for part in parts])[:-1])
        return [piece.reshape(np.shape(part)) for piece, part in zip(pieces, parts, strict=True)]


@contextmanager
def start(lab: str, given: argparse.Namespace) -> Iterator[Ranks]:
    """Join the ranks of this run of *lab*; a failure on one of them prints its reason and ends all.

    Yields:
        This rank's Ranks.
    """
    begun = time.monotonic()
    try:
        comm = MPI.COMM_WORLD
        cpus = frozenset(os.sched_getaffinity(0))
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        here = Place(os.uname().nodename, machine, cpus, world.threads(world.usable()))
        results = result.directory(lab.replace("/", "_"), given.results) if comm.rank == 0 else Path()
        yield Ranks(comm.rank, comm.allgather(here), begun, comm, results)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks must not wait for this one
        world.let_rank_0_speak(1)
        reason = str(error) if isinstance(error, LabError) else traceback.format_exc()
        who = f"rank {world.launch_rank()} on {os.uname().nodename}"
        print(f"{who} failed: {reason}", file=sys.stderr, flush=True)
        os._exit(1)  # not sys.exit: MPI's end would wait for ranks that wait for this one


def descend(
    progress: Progress, weights: Weights, gradients: Callable[[int], tuple[float, Weights]], update: Update
) -> list[float]:
    """Take the steps of *progress* and return the loss before each.

    *gradients* gives, for a step, this rank's parts of the loss and of its derivatives by the *weights*;
    *update* takes the step with their sums, and so does every rank the same.

    Raises:
        LabError: the loss is no number any more.
    """
    losses: list[float] = []
    with np.errstate(over="ignore", invalid="ignore"):  # found, and told, by the loss
        for step in range(progress.steps):
            begun = time.monotonic()
            part, slopes = gradients(step)
            computed = time.monotonic()
            loss, *sums = progress.world.add_up([part, *(slopes[name] for name in weights)])
            waited = time.monotonic() - computed
            if not math.isfinite(loss):
                raise LabError(
                    f"the loss is {loss} at step {step + 1}: training diverges; use a smaller --learning-rate"
                )
            update(step, dict(zip(weights, sums, strict=True)))
            losses.append(float(loss))
            progress.add(1, time.monotonic() - begun, waited, losses[-1])
    return losses


def gradient_descent(weights: Weights, rates: Vector) -> Update:
    """W <- W - rate * dW; *rates* (steps,) has the learning rate of each step."""

    def update(step: int, slopes: Weights) -> None:
        for name, slope in slopes.items():
            weights[name] -= rates[step] * slope

    return update


def softmax(scores: Vector) -> Vector:
    """Probabilities A (n, 10) of *scores* Z (n, 10)."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def cross_entropy(scores: Vector, y: Vector) -> float:
    """Sum of -y log softmax(*scores*), *y* (n, 10) being one-hot.

    Not by way of the probabilities: those of a network that errs by thousands, as the published one does at
    first, are too small for a number, and so would have no logarithm.
    """
    top = scores.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0] - scores[y == 1]).sum())


def one_hot(labels: Any) -> Vector:
    """Rows (n, 10) of zeros, with a one where the label is."""
    return np.eye(10)[labels]


def accuracy(scores: Callable[[Vector], Vector], data: tuple[Any, Any]) -> float:
    """Share of the images of *data* (rows of bytes, labels) whose highest score is that of the label."""
    images, labels = data
    return float(np.mean(np.argmax(scores(images / 255.0), axis=1) == labels))


def finish(progress: Progress, goal: Goal, reached: dict[str, Any], losses: list[float]) -> None:
    """Tell what was *reached* beside the *goal*; *losses* go to the file alone (rank 0 only)."""
    ranks = progress.world
    if ranks.rank == 0:
        file = ranks.results / "result.json"
        told = reached | {"global_batch_size": progress.batch, "results": str(file), "plot": ""}
        told |= result.tell(progress, goal, reached[goal.measure])
        half = len(losses) // 2
        curve = (
            f"{losses[0]:.6f} at step 1, {losses[half]:.6f} at {half + 1}, {losses[-1]:.6f} at {len(losses)}"
        )
        told["summary"] = {"loss": curve} | told["summary"]
        result.write_json(file, told | {"history": {"loss": losses}})
        result.announce(told)
