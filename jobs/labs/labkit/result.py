"""What a run tells: progress while it lasts, then a summary, files, and one line for programs."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from labs.labkit import LabError, plot
from labs.labkit.goal import Goal
from labs.labkit.world import World, crowding

EVERY = 3.0  # seconds between lines of progress: a job's output file stays short


class Progress:
    """Rate and time left of a training of *steps* steps, *batch* units each, of which *done* are done.

    The clock runs between resume() and pause(); the first step, in which TensorFlow makes its threads
    and memory, does not count.
    """

    def __init__(self, world: World, *, steps: int, batch: int, unit: str, done: int) -> None:
        self.world, self.steps, self.batch, self.unit, self.step = world, steps, batch, unit, done
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
                f"step {self.step:>5}/{self.steps}  loss {loss:.4f}  {rate:,.0f} {self.unit}/s  "
                f"{left:.0f} s left",
            )

    @property
    def rate(self) -> float:
        """Units per second of training, all ranks together; 0 where there was no second step to measure."""
        return self.counted * self.batch / self.seconds if self.counted > 0 else 0.0


def directory(lab: str, chosen: Path | None) -> Path:
    """Make the directory to which a run writes: *chosen*, or LAB-JOB beside the job's output.

    Raises:
        LabError: it cannot be made; found before the training, not after it.
    """
    job = os.environ.get("SLURM_JOB_ID") or time.strftime("local-%Y%m%d-%H%M%S")
    target = Path.cwd() / (chosen or f"{lab}-{job}")
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
    progress: Progress, target: Path, goal: Goal, reached: dict[str, Any], history: dict[str, Any]
) -> None:
    """Draw and write the result to *target*, print the summary and the RESULT line (rank 0 only).

    *reached* holds what the lab computed, the measure of *goal* and seconds among it; where it ran, its speed
    and its files are added. Where nothing was left to train, the result that stands is shown.
    """
    file = target / "result.json"
    stands = json.loads(file.read_text()) if progress.counted < 0 and file.exists() else {}
    if stands.get("steps") == progress.steps:
        print(f"all {progress.steps} steps had been trained: this is their result")
        told = {key: value for key, value in stands.items() if key != "history"}
    else:
        told = reached | tell(progress, goal, reached)
        told |= {"results": str(file), "plot": str(target / "curves.png")}
        batch = f"{progress.batch} {progress.unit} per step"
        title = f"{told['lab']} on {told['data']}: {progress.world.place}, {batch}"
        plot.curves(target / "curves.png", title, history, goal)
        write_json(file, told | {"history": history})
    print(summary(told))
    print(f"RESULT {json.dumps(told)}", flush=True)


def tell(progress: Progress, goal: Goal, reached: dict[str, Any]) -> dict[str, Any]:
    """Return where a run took place, how fast, its goal, and the rows of its summary."""
    world, unit = progress.world, progress.unit
    total, each = progress.rate, progress.rate / world.size
    value = reached[goal.measure]
    speed = f"{each:,.0f} {unit}/s per rank, {total:,.0f} in total" if total else "too few steps to tell"
    return {
        "steps": progress.steps,
        "ranks": world.size,
        "nodes": len(world.nodes),
        "machines": world.machines,
        "threads": world.threads,
        "cpus": [sorted(place.cpus) for place in world.places],
        f"{unit}_per_s": round(total, 1) or None,
        f"{unit}_per_s_per_rank": round(each, 1) or None,
        "goal": goal.told(value),
        "note": crowding(world.places),
        "summary": {
            goal.measure: goal.verdict(value),
            "speed": speed,
            "ranks": world.place,
            "time": f"{reached['seconds']:.1f} s from the start of the ranks",
        },
    }


def summary(told: dict[str, Any]) -> str:
    """Return the closing block of a RESULT; minsky.report shows the same rows."""
    rows = told["summary"] | {name: told[name] for name in ("results", "plot", "note")}
    return "\n".join(f"  {name:<9} {value}" for name, value in rows.items() if value)
