"""The plan of a training: which samples each rank sees at each step, and how far it steps.

Everything follows from seed, epoch and step, so a run can stop anywhere and continue, and the same
global batch gives the same training on any number of ranks.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from labs.labkit import LabError
from labs.labkit.world import World


@dataclass(frozen=True)
class Course:
    """A training's length: *steps*, *per_epoch* of them an epoch, with *batch* samples each.

    Of those *share* are this rank's. After *between* steps comes a test; without it, after an epoch.
    """

    share: int
    batch: int
    steps: int
    per_epoch: int
    between: int = 0

    def __post_init__(self) -> None:
        """A test after each epoch, where nothing else is said."""
        object.__setattr__(self, "between", self.between or self.per_epoch)

    @property
    def epochs(self) -> float:
        """Times through the training data."""
        return self.steps / self.per_epoch


def course(given: argparse.Namespace, samples: int, ranks: int, *, epochs: int) -> Course:
    """The course that the knobs of options.add_batch and add_length say; without the latter, *epochs*.

    Raises:
        LabError: a global batch does not divide among the *ranks*, or takes more than there are *samples*.
    """
    part = share(given.batch_size, given.global_batch_size, ranks)
    per_epoch = steps_per_epoch(samples, part, ranks)
    return Course(part, part * ranks, given.steps or (given.epochs or epochs) * per_epoch, per_epoch)


def share(batch: int, whole: int | None, ranks: int) -> int:
    """Samples per rank and step: *batch*, or a share of *whole*, a global batch, where one is given.

    Raises:
        LabError: *whole* does not divide among the ranks.
    """
    if whole is None:
        return batch
    if whole % ranks:
        down = whole - whole % ranks
        raise LabError(
            f"a global batch of {whole} does not divide among {ranks} ranks: use --global-batch-size "
            + (f"{down} or {down + ranks}" if down else f"{ranks}"),
        )
    return whole // ranks


def steps_per_epoch(samples: int, batch: int, ranks: int) -> int:
    """Whole global batches in one epoch; what is left over has its turn in another epoch's order.

    Fixed before training: were it left to each rank's share, one rank would run out of data first
    and the others would wait for its gradients for ever.

    Raises:
        LabError: there are fewer samples than one global batch takes.
    """
    if batch * ranks > samples:
        raise LabError(
            f"{ranks} ranks take {batch} samples each at a step, but there are only {samples}: "
            + (
                f"use --batch-size {samples // ranks} or less, as far as memory goes"
                if ranks <= samples
                else "use fewer ranks"
            ),
        )
    return samples // (batch * ranks)


def order(samples: int, batch: int, world: World, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Samples that this rank of *world* sees in *epoch*: indices of shape (steps, batch).

    All ranks shuffle all samples alike; each global batch is then dealt out to the ranks.
    """
    steps = steps_per_epoch(samples, batch, world.size)
    shuffled = np.random.default_rng([seed, epoch]).permutation(samples)
    return shuffled[: steps * world.size * batch].reshape(steps, world.size, batch)[:, world.rank]


def orders(
    samples: int, course: Course, world: World, *, seed: int
) -> Callable[[int], npt.NDArray[np.int64]]:
    """Return what gives this rank's samples (share,) at any step of *course*."""
    of_epoch = lru_cache(1)(lambda epoch: order(samples, course.share, world, seed=seed, epoch=epoch))
    return lambda step: of_epoch(step // course.per_epoch)[step % course.per_epoch]


RULES = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}
"""How the learning rate grows with the global batch: as its power of so much."""


def learning_rates(
    base: float, *, growth: float, rule: str, warmup: int, steps: int
) -> npt.NDArray[np.float32]:
    """Learning rate of each step: from *base*, in *warmup* steps, to *base* times growth ** power of *rule*.

    A batch *growth* times larger has a less noisy gradient and allows a longer step, but not while the
    weights still change fast (Goyal et al., arXiv:1706.02677; the square root suits Adam and RMSProp:
    Malladi et al., arXiv:2205.10287).
    """
    progress = np.minimum(np.arange(steps) / max(1, warmup), 1)
    return np.asarray(base * (1 + (growth ** RULES[rule] - 1) * progress), np.float32)
