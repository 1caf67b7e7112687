"""What a run tells: progress while it lasts, then a summary, files, and one line for programs."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labs.labkit import LabError
from labs.labkit.goal import Goal
from labs.labkit.plan import Course
from labs.labkit.world import World, crowding

EVERY = 3.0  # seconds between lines of progress: a job's output file stays short


class Progress:
    """Rate and time left of a training along *course*, with *batch* units a step; *done* steps are done.

    The first steps, in which TensorFlow makes its threads and memory, do not count.
    """

    def __init__(self, world: World, course: Course, *, batch: int, unit: str, done: int) -> None:
        self.world, self.batch, self.unit, self.step = world, batch, unit, done
        self.steps, self.per_epoch = course.steps, course.per_epoch
        self.counted, self.seconds, self.waited, self.spoken, self.startup = -1, 0.0, 0.0, 0.0, 0.0

    def add(self, steps: int, seconds: float, waited: float, loss: float) -> None:
        """Count *steps* that took *seconds*, *waited* of them in all-reduce; say where it stands."""
        self.step += steps
        if self.counted < 0:
            self.counted, self.spoken = 0, time.monotonic() - EVERY / 2
            self.startup = time.monotonic() - self.world.begun
            return
        self.counted += steps
        self.seconds += seconds
        self.waited += waited
        if time.monotonic() - self.spoken >= EVERY:
            self.spoken = time.monotonic()
            left = (self.steps - self.step) * self.batch / self.rate
            self.world.say(
                f"step {self.step:>5}/{self.steps}  loss {loss:.4f}  {self.rate:,.0f} {self.unit}/s  "
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
        (target / ".written").touch()
        (target / ".written").unlink()
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
    progress: Progress, target: Path, goal: Goal, reached: dict[str, Any], draw: Callable[[Path, str], None]
) -> None:
    """Draw and write the result to *target*, print the summary and the RESULT line (rank 0 only).

    *reached* holds what the lab computed, the measure of *goal* and the history among it; where it ran, its
    speed and its files are added, and the history goes to the file alone. *draw* makes the picture, given its
    file and title. Where nothing was left to train, the result that stands is shown.
    """
    file, history = target / "result.json", {"history": reached["history"]}
    stands = json.loads(file.read_text()) if progress.counted < 0 and file.exists() else {}
    if stands.get("steps") == progress.steps:
        print(f"all {progress.steps} steps had been trained: this is their result")
        told = {key: value for key, value in stands.items() if key not in history}
    else:
        told = {key: value for key, value in reached.items() if key not in history}
        told |= tell(progress, goal, reached[goal.measure])
        told |= {"results": str(file), "plot": str(target / "curves.png")}
        batch = f"{progress.batch} {progress.unit} per step"
        draw(target / "curves.png", f"{told['lab']} on {told['data']}: {progress.world.place}, {batch}")
        write_json(file, told | history)
    announce(told)


def announce(told: dict[str, Any]) -> None:
    """Print the summary and the RESULT line of a run."""
    print(summary(told))
    print(f"RESULT {json.dumps(told)}", flush=True)


def tell(progress: Progress, goal: Goal, value: float | None) -> dict[str, Any]:
    """Return where a run took place, how fast, its goal beside *value*, and the rows of its summary."""
    unit, total = progress.unit, progress.rate
    each = total / progress.world.size
    speed, spent = "too few steps to tell", ""
    told = place(progress.world) | {"steps": progress.steps, "startup_s": round(progress.startup, 1)}
    if total:
        epoch, computing = progress.per_epoch * progress.batch / total, progress.seconds - progress.waited
        speed = f"{each:,.0f} {unit}/s per rank, {total:,.0f} in total; an epoch takes {epoch:,.1f} s"
        spent = f"{computing:.1f} s in computation, {progress.waited:.1f} s waiting in all-reduce; "
        told |= {"computation_s": round(computing, 3), "allreduce_s": round(progress.waited, 3)}
        told |= {"epoch_s": round(epoch, 3), "step_s": progress.seconds / progress.counted}
    return told | {
        f"{unit}_per_s": round(total, 1) or None,
        f"{unit}_per_s_per_rank": round(each, 1) or None,
        "goal": goal.told(value),
        "summary": {
            goal.measure: goal.verdict(value),
            "speed": speed,
            "ranks": progress.world.place,
            "time": f"{spent}{told['seconds']:.1f} s from the start of the ranks",
        },
    }


def place(world: World) -> dict[str, Any]:
    """Return where a run took place, and for how long, as every RESULT tells it."""
    return {
        "ranks": world.size,
        "nodes": len(world.nodes),
        "machines": world.machines,
        "threads": world.threads,
        "cpus": [sorted(place.cpus) for place in world.places],
        "note": crowding(world.places),
        "seconds": round(time.monotonic() - world.begun, 1),
    }


def summary(told: dict[str, Any]) -> str:
    """Return the closing block of a RESULT; minsky.report shows the same rows."""
    rows = told["summary"] | {name: told[name] for name in ("results", "plot", "note")}
    return "\n".join(f"  {name:<9} {value}" for name, value in rows.items() if value)
