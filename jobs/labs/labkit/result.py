"""What a run tells: progress while it lasts, then a summary, files, and one line for programs."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from labs.labkit import LabError, plot
from labs.labkit.world import World, count, crowding

EVERY = 3.0  # seconds between lines of progress: a job's output file stays short


class Progress:
    """Rate and time left of a training of *steps* steps, *batch* images each, of which *done* are done.

    The clock runs between resume() and pause(); the first step, in which TensorFlow makes its threads
    and memory, does not count.
    """

    def __init__(self, world: World, *, steps: int, batch: int, done: int) -> None:
        self.world, self.steps, self.batch, self.step = world, steps, batch, done
        self.counted, self.seconds = -1, 0.0
        self.begun = self.spoken = time.monotonic()

    def resume(self) -> None:
        """Start the clock: training steps follow."""
        self.begun = time.monotonic()

    def pause(self) -> None:
        """Stop the clock: something else follows."""
        self.seconds += time.monotonic() - self.begun

    def tick(self, loss: float) -> None:
        """Count a step of which this is the *loss*; every few seconds, print where training stands.

        Raises:
            LabError: the loss is no number any more.
        """
        self.step += 1
        self.counted += 1
        if not math.isfinite(loss):
            raise LabError(
                f"the loss is {loss} at step {self.step}: training diverges; use a smaller --learning-rate",
            )
        now = time.monotonic()
        if self.counted == 0:
            self.begun, self.spoken = now, now - EVERY / 2
        elif now - self.spoken >= EVERY:
            self.spoken = now
            rate = self.counted * self.batch / (self.seconds + now - self.begun)
            left = (self.steps - self.step) * self.batch / rate
            self.world.say(
                f"step {self.step:>5}/{self.steps}  loss {loss:.4f}  {rate:,.0f} images/s  {left:.0f} s left",
            )

    @property
    def rate(self) -> float:
        """Images per second of training, all ranks together."""
        return self.counted * self.batch / self.seconds if self.counted > 0 else 0.0


def directory(lab: str, chosen: Path | None) -> Path:
    """Make the directory to which a run writes: *chosen*, or results/LAB-JOB in the directory of the job.

    Raises:
        LabError: it cannot be made; found before the training, not after it.
    """
    job = os.environ.get("SLURM_JOB_ID") or time.strftime("local-%Y%m%d-%H%M%S")
    target = Path.cwd() / (chosen or Path("results") / f"{lab}-{job}")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"results cannot be written to {target} ({error}); name a place with --results"
        ) from error
    return target


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write *content* to *file*, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content) + "\n")
    part.replace(file)


def finish(
    world: World, progress: Progress, target: Path, reached: dict[str, Any], history: dict[str, Any]
) -> None:
    """Draw and write the result to *target*, print the summary and the RESULT line (rank 0 only).

    *reached* holds what the lab computed; where it ran, its speed and its files are added.
    """
    told = reached | {
        "ranks": world.size,
        "nodes": len(world.nodes),
        "threads": world.threads,
        "cpus": [sorted(place.cpus) for place in world.places],
        "images_per_s": round(progress.rate, 1),
        "images_per_s_per_rank": round(progress.rate / world.size, 1),
        "results": str(target / "result.json"),
        "plot": str(target / "curves.png"),
    }
    who = f"{count(world.size, 'rank')} on {count(len(world.nodes), 'node')}"
    title = f"{told['lab']} on {told['data']}: {who}, {told['global_batch_size']} images per step"
    write_json(target / "result.json", told | {"history": history})
    plot.curves(target / "curves.png", title, history, floor=told["floor"])
    print(summary(world, told))
    print(f"RESULT {json.dumps(told)}", flush=True)


def summary(world: World, told: dict[str, Any]) -> str:
    """Return the closing block: who computed, how fast, and the accuracy beside its floor."""
    verdict = "reached" if told["accuracy"] >= told["floor"] else "NOT REACHED"
    each, total = told["images_per_s_per_rank"], told["images_per_s"]
    rows = {
        "ranks": world.place,
        "speed": f"{each:,.0f} images/s per rank, {total:,.0f} in total",
        "accuracy": f"{told['accuracy']:.4f} on all test images of {told['data']}; "
        f"floor with default settings {told['floor']}: {verdict}",
        "time": f"{told['seconds']:.1f} s from the start of the ranks",
        "results": told["results"],
        "plot": told["plot"],
        "note": crowding(world.places),
    }
    return "\n".join(f"  {name:<9} {value}" for name, value in rows.items() if value)
