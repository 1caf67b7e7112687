"""The LSTM lab against the plainest Keras program of the same network; to be run in the lab image.

    apptainer exec --bind .:/minsky,$MINSKY_DATA_DIR lab.sif python3 /minsky/benchmarks/lstm_against_keras.py

The same text, batch, network, optimizer and threads; one process each, which take turns. The lab must be at
least as fast; the figures are medians of tokens/s without each program's first steps, with the smallest and
the largest beside them, and the ratio. The losses, over the same steps, show that both learn.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

JOBS = Path(__file__).resolve().parents[1] / "jobs"
sys.path.insert(0, str(JOBS))

from labs import lstm  # noqa: E402 - the labs are no installed package
from labs.labkit import words  # noqa: E402

FIRST = 10  # steps that are not counted


def keras(steps: int) -> dict[str, Any]:
    """Train by `model.fit`, as one would write it without a thought for speed."""
    import tensorflow as tf  # noqa: PLC0415 - the other program's process must not load it

    layers, normal = tf.keras.layers, tf.keras.initializers.RandomNormal(stddev=1)
    text = words.text(Path(os.environ["MINSKY_DATA_DIR"]), None, None)
    batch, size = lstm.USUAL_BATCH, len(text.vocabulary)
    rows = words.rows(text, batch, lstm.LENGTH)[: (FIRST + steps) * batch]
    targets = np.roll(rows, -1, axis=1)
    model = tf.keras.Sequential(
        [
            tf.keras.Input(batch_size=batch, shape=(lstm.LENGTH,)),
            layers.Embedding(size, lstm.SIZE, embeddings_initializer=normal),
            layers.LSTM(lstm.SIZE, return_sequences=True, stateful=True),
            layers.Dense(size, kernel_initializer=normal),
        ]
    )
    model.compile(
        tf.keras.optimizers.Adam(lstm.RATE, global_clipnorm=4.5),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    first = FIRST * batch
    fit = {"batch_size": batch, "shuffle": False, "verbose": 0}
    model.fit(rows[:first], targets[:first], **fit)
    begun = time.perf_counter()
    loss = model.fit(rows[first:], targets[first:], **fit).history["loss"][0]
    return {"tokens_per_s": steps * batch * lstm.LENGTH / (time.perf_counter() - begun), "loss": loss}


def run(program: str, steps: int) -> dict[str, Any]:
    """Run *program* for so many steps, in a process of its own; its tokens/s and its mean loss."""
    own = [__file__, "--only-keras", "--steps", str(steps)]
    with tempfile.TemporaryDirectory() as results:
        lab = ["-m", "labs.lstm", "--steps", str(FIRST + steps), "--results", results]
        done = subprocess.run(
            [sys.executable, *(lab if program == "lab" else own)],
            env=os.environ | {"PYTHONPATH": str(JOBS), "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{program} failed:\n{done.stdout}{done.stderr}")
        told: dict[str, Any] = json.loads(re.findall(r"(?m)^RESULT (.*)$", done.stdout)[-1])
        if program == "lab":
            history = json.loads((Path(results) / "result.json").read_text())["history"]
            told["loss"] = float(np.mean(history["loss"][FIRST:]))
    return told


def main() -> int:
    """Measure, print a table and a JSON line; status 1 where the lab is the slower one."""
    parser = argparse.ArgumentParser(description="The LSTM lab against Keras.")
    parser.add_argument("--steps", type=int, default=30, help="counted steps of each run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program")
    parser.add_argument("--only-keras", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_keras:
        print(f"RESULT {json.dumps(keras(given.steps))}")
        return 0
    rates: dict[str, list[float]] = {"Keras": [], "lab": []}
    for turn in range(given.rounds):
        for program, seen in rates.items():
            told = run(program, given.steps)
            seen.append(told["tokens_per_s"])
            print(f"{turn + 1}  {program:<6} {seen[-1]:7,.0f} tokens/s, loss {told['loss']:.3f}", flush=True)
    print(f"\n{'program':<8} {'tokens/s':>9} {'smallest':>9} {'largest':>9}")
    for program, seen in rates.items():
        print(f"{program:<8} {median(seen):>9,.0f} {min(seen):>9,.0f} {max(seen):>9,.0f}")
    ratio = median(rates["lab"]) / median(rates["Keras"])
    print(f"the lab is {ratio:.2f} times as fast; must be 1: {'reached' if ratio >= 1 else 'NOT REACHED'}")
    print(json.dumps({"rates": rates, "ratio": round(ratio, 3), "cpus": sorted(os.sched_getaffinity(0))}))
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
