"""A training from its first step to its last: chunks of steps, tests, checkpoints, signals."""

import argparse
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from labs.labkit import LabError, checkpoint, plot, result, world
from labs.labkit.checkpoint import Checkpoints
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.plan import Course
from labs.labkit.world import World

Draw = Callable[[Path, str, dict[str, Any], Goal], None]  # file, title, history, goal
CHUNK = 0.5  # seconds of training between two looks around, for signals and at the clock


class DivergedError(LabError):
    """The loss is no number any more."""


def _told(loss: float, value: float) -> str:
    return f"loss {loss:.4f}  test accuracy {value:.4f}"


@dataclass
class Training:
    """Training of one lab along *course*, on *data*, so called.

    *step* is traced by TensorFlow and takes one step. It is given this rank's samples (share,), as indices,
    and returns the *measures* of its share and the seconds that it waited for other ranks (gradients.add_up
    counts those). Many steps run in one call: Python takes no time between them.

    *state* is what a checkpoint keeps: `weights` (variables by name), `optimizer`, the variable `step`. A
    continued run must share *settings*, by name. *before_save* is called on all ranks before a checkpoint.
    A sample is *units* of *unit*, by which speed is told; a test is told with what is *counted* up to it.
    *home*: the directory for results, if it has been made; *part*: its subdirectory for the checkpoints of
    one training of several.

    Raises:
        LabError: the results directory cannot be written to, or holds a checkpoint of other settings.
    """

    ranks: World
    given: argparse.Namespace
    lab: str
    data: str
    course: Course
    step: Callable[[Any], Any]
    state: dict[str, Any]
    settings: dict[str, Any]
    measures: tuple[str, ...] = ("loss", "accuracy")
    unit: str = "images"
    units: int = 1
    counted: Literal["epochs", "steps"] = "epochs"
    before_save: Callable[[], None] = lambda: None
    home: Path | None = None
    part: str = ""

    def __post_init__(self) -> None:
        """Compile the step; begin, or continue from a checkpoint."""
        step, ranks, course = self.step, self.ranks, self.course
        # Alone first: it makes the optimizer's variables, which a checkpoint has and a loop cannot make.
        # Without AutoGraph, in labs too: no step has Python's if and for on tensors; to look takes a second.
        tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec([course.share], tf.int64))
        self._chunk = tf.function(
            lambda rows: tf.map_fn(
                lambda samples: tf.stack([tf.cast(value, tf.float64) for value in step(samples)]),
                rows,
                fn_output_signature=tf.float64,
                parallel_iterations=1,
            ),
            input_signature=[tf.TensorSpec([None, course.share], tf.int64)],
            autograph=False,
        )
        self.history: dict[str, list[Any]] = {name: [] for name in self.measures} | {"test": []}
        if ranks.rank == 0:  # Horovod: one rank reads and writes the files
            self.directory = self.home or result.directory(self.lab, self.given.results)
            settings = {"lab": self.lab, "data": self.data, "global batch": course.batch}
            self.checkpoints = Checkpoints(
                self.directory / self.part / "checkpoints", settings | self.settings, **self.state
            )
            self.history = self.checkpoints.restore(course.steps) or self.history
            if self.history["loss"]:
                ranks.say(f"continuing from step {self.done} in {self.directory}")
            elif self.given.results and not self.part:
                ranks.say(f"no checkpoint in {self.directory}: beginning at step 0")
        # Horovod: all ranks begin with rank 0's variables, fresh or from a checkpoint.
        hvd.broadcast_variables([v for part in self.state.values() for v in _variables(part)], root_rank=0)
        batch = course.batch * self.units
        self.progress = result.Progress(ranks, course, batch=batch, unit=self.unit, done=self.done)

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return int(self.state["step"])

    def run(
        self,
        order: Callable[[int], Any],
        test: Callable[[], Any],
        told: Callable[[float, Any], str] = _told,
    ) -> None:
        """Take the steps that are missing, and *test* now and then; *told* gives words to its result.

        *order* returns this rank's samples of the steps before the n-th test: indices (between, share).
        *told* is given the mean loss of these steps, and the result.

        Raises:
            DivergedError: the loss is no number any more; the history ends before that step.
            StoppedError: a signal came; all ranks have stopped after the same step, and rank 0 saved it.
        """
        world.heed(signal.SIGTERM)
        order, length, self._saved = lru_cache(1)(order), 1, time.monotonic()
        steps, between, now = self.course.steps, self.course.between, self.done
        if now == steps:  # all that was missing is the test: the former run ended between the two
            self._test(now, test())
        while now < steps:
            turn, done = divmod(now, between)
            # Horovod: the ranks stop after so many steps, not seconds: they stop together.
            end = done + min(length, between - done, steps - now)
            begun = time.monotonic()
            measured = self._chunk(order(turn)[done:end]).numpy()
            stop, due, seconds = self._agree(measured, begun)
            now = self.done
            if end == between or now == steps:
                value, loss = self._test(now, test()), float(np.mean(self.history["loss"][-end:]))
                at = f"step {now:>5}/{steps}"
                if self.counted == "epochs":
                    at = f"epoch {math.ceil(now / self.course.per_epoch)}"
                self.ranks.say(f"{at}  {told(loss, value)}  {self.progress.rate:,.0f} {self.unit}/s")
            if stop or due or now == steps:
                self._save(now)
            if stop and now < steps:
                self._leave(now)
            if not CHUNK / 2 <= seconds <= CHUNK * 2:
                length = max(1, round(length * (2 if seconds < CHUNK else 0.5)))

    def _agree(self, measured: Any, begun: float) -> tuple[float, float, float]:
        """Average what the ranks *measured*; return whether they stop and save, and rank 0's seconds.

        Horovod: one message has it all. The last numbers are added up, and no rank but 0 says anything of the
        second and third, so that all ranks come to the same decisions.
        """
        seconds = time.monotonic() - begun
        due = time.monotonic() - self._saved > checkpoint.EVERY
        said = [world.asked_to_stop() > 0, *((due, seconds) if self.ranks.rank == 0 else (0, 0))]
        message = np.concatenate([measured.astype(np.float64).ravel() / self.ranks.size, said])
        if self.ranks.size > 1:
            message = hvd.allreduce(tf.constant(message), op=hvd.Sum).numpy()
        *values, waited = message[:-3].reshape(measured.shape).T.tolist()
        good = int(np.argmin([*np.isfinite(values).all(axis=0), False]))
        for name, column in zip(self.measures, values, strict=True):
            self.history[name] += column[:good]
        if good < len(measured):
            measure, value = next(
                (name, column[good])
                for name, column in zip(self.measures, values, strict=True)
                if not math.isfinite(column[good])
            )
            raise DivergedError(
                f"the {measure} is {value} at step {self.progress.step + good + 1}: training diverges; "
                "use a smaller --learning-rate",
            )
        self.progress.add(good, time.monotonic() - begun, sum(waited), values[0][-1])
        stop, save, chunk = message[-3:].tolist()
        return stop, save, chunk

    def _test(self, now: int, value: Any) -> Any:
        self.history["test"] = [*(former for former in self.history["test"] if former[0] < now), [now, value]]
        return value

    def _save(self, now: int) -> None:
        self.before_save()
        if self.ranks.rank == 0:
            self.checkpoints.save(now, self.history)
        self._saved = time.monotonic()

    def _leave(self, now: int) -> None:
        hvd.allreduce(tf.constant(0))  # Horovod: no rank leaves before rank 0 has saved
        number = world.asked_to_stop()
        name = signal.Signals(number).name if number else "a signal to another rank"
        where = f"--results {self.directory}" if self.ranks.rank == 0 else "--results"
        raise world.StoppedError(f"stopped by {name} after step {now}: with {where} it goes on from there")

    def finish(self, goal: Goal, reached: dict[str, Any], draw: Draw = plot.curves) -> None:
        """On rank 0, *draw* the curves and tell the result: what the lab *reached*, where, how fast."""
        if self.ranks.rank == 0:  # Horovod: the whole history is rank 0's, which alone read the checkpoint
            head = {"lab": self.lab, "data": self.data, "epochs": round(self.course.epochs, 3)}
            head |= {"batch_size": self.course.share, "global_batch_size": self.course.batch}
            sizes = [math.prod(v.shape) * v.dtype.size for v in _variables(self.state["weights"])]
            head |= {"gradient_bytes": sum(sizes)}
            result.finish(
                self.progress,
                self.directory,
                goal,
                head | reached | {"history": self.history},
                lambda file, title: draw(file, title, self.history, goal),
            )


def _variables(part: Any) -> list[Any]:
    """The variables in one *part* of a state: one, a dictionary of some, or an optimizer."""
    if isinstance(part, dict):
        return list(part.values())
    return list(part.variables()) if callable(getattr(part, "variables", None)) else [part]
