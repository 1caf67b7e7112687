"""Labs against the plainest Keras programs of the same models: run it in the lab image, on idle cores.

    apptainer exec --bind .:/minsky,$MINSKY_DATA_DIR lab.sif python3 /minsky/benchmarks/labs_against_keras.py

The same model, data, batch and optimizer; one process each, with all CPUs, which take turns. A lab must be at
least as fast as `model.fit`, and is meant to be twice as fast. The figures are medians of samples/s without
each program's first steps, with the smallest and the largest beside them.
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
from labs.labkit import datasets, words  # noqa: E402
from labs.transfer_learning import BATCH, RATES  # noqa: E402

# Steps of each run, and how the lab is told so many; the line's step is an epoch.
STEPS = {
    "linear_regression": 1000, "logistic_regression": 3000, "neural_network": 500, "cnn": 40, "lstm": 40,
    "transfer_learning": 200,
}  # fmt: skip
LENGTH = {"linear_regression": "--epochs"}
MORE = {"transfer_learning": ["--pretraining", "10"]}  # what the lab does before is not compared
UNIT = dict.fromkeys(STEPS, "images") | {"linear_regression": "points", "lstm": "tokens"}
MUST, AIM = 1, 2  # times as fast as Keras


def model(lab: str) -> tuple[list[Any], Any, int]:
    """The layers of *lab*, its optimizer, and the samples of a step."""
    from tensorflow.keras import initializers, layers, optimizers  # noqa: PLC0415 - the lab's process must not have it

    dense = layers.Dense
    if lab == "linear_regression":
        return [dense(1)], optimizers.SGD(0.04), datasets.POINTS.shape[1]
    if lab == "logistic_regression":
        return [dense(10)], optimizers.SGD(0.01), 100
    if lab == "neural_network":
        return [dense(256, "relu"), dense(256, "relu"), dense(10)], optimizers.Adam(0.001), 128
    if lab == "lstm":
        normal, size = initializers.RandomNormal(stddev=1), len(_shakespeare().vocabulary)
        network = [
            layers.Input(batch_size=lstm.USUAL_BATCH, shape=(lstm.LENGTH,)),
            layers.Embedding(size, lstm.SIZE, embeddings_initializer=normal),
            layers.LSTM(lstm.SIZE, return_sequences=True, stateful=True),
            dense(size, kernel_initializer=normal),
        ]
        return network, optimizers.Adam(lstm.RATE, global_clipnorm=4.5), lstm.USUAL_BATCH
    if lab == "transfer_learning":
        network = []
        for channels, width in ((16, 5), (32, 5), (64, 3)):
            network += [layers.Conv2D(channels, width, padding="same", activation="relu")]
            network += [layers.MaxPooling2D(padding="same")]
        network += [layers.Flatten(), dense(256, "relu"), dense(5)]
        return network, optimizers.SGD(RATES["digits"], momentum=0.9), BATCH
    network = []
    for channels in (32, 64):
        network += [layers.Conv2D(channels, 5, padding="same", activation="relu"), layers.MaxPooling2D()]
    network += [layers.Flatten(), dense(1024, "relu"), layers.Dropout(0.25), dense(10)]
    return network, optimizers.Adam(0.001), 128


def samples(lab: str, count: int) -> tuple[Any, Any]:
    """Inputs and outputs of *lab*, the first *count* of them where there are so many."""
    if lab == "linear_regression":
        x, y = datasets.POINTS
        return x[:, None], y
    if lab == "lstm":
        rows = words.rows(_shakespeare(), lstm.USUAL_BATCH, lstm.LENGTH)[:count]
        return rows, np.roll(rows, -1, axis=1)
    if lab == "transfer_learning":
        digits = datasets.handwritten(Path(os.environ["MINSKY_DATA_DIR"]))
        images, labels = digits.train
        few = np.concatenate([np.flatnonzero(labels == digit)[:20] for digit in range(5, 10)])
        fields = datasets.scattered(images[few], np.random.default_rng(1)).astype("float32") / 255
        return np.resize(fields, (count, *fields.shape[1:])), np.resize(labels[few] - 5, count)
    data = (datasets.handwritten if lab == "cnn" else datasets.flat)(Path(os.environ["MINSKY_DATA_DIR"]))
    images, labels = data.train
    return images[:count].astype("float32") / 255, labels[:count]


def _shakespeare() -> words.Text:
    return words.text(Path(os.environ["MINSKY_DATA_DIR"]), None, None)


def keras(lab: str, steps: int) -> float:
    """Train as one would write it without a thought for speed; samples (the LSTM's: words) per second."""
    import tensorflow as tf  # noqa: PLC0415 - as above

    network, optimizer, batch = model(lab)
    x, y = samples(lab, steps * batch)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network = tf.keras.Sequential(network)
    network.compile(optimizer, "mse" if lab == "linear_regression" else loss)
    if lab == "transfer_learning":
        return transferred(network, (x, y), batch)
    rounds = -(-steps * batch // len(x))
    fit = {"batch_size": batch, "verbose": 0, "shuffle": lab != "lstm"}  # its state goes from row to row
    network.fit(x[: 10 * batch], y[: 10 * batch], **fit)
    begun = time.perf_counter()
    network.fit(x, y, epochs=rounds, **fit)
    samples_per_s = rounds * len(x) / (time.perf_counter() - begun)
    return samples_per_s * (lstm.LENGTH if lab == "lstm" else 1)


def transferred(network: Any, data: tuple[Any, Any], batch: int) -> float:
    """The last layer alone, then all: of a network with a past and of one without, one after the other."""
    import tensorflow as tf  # noqa: PLC0415 - as above

    seconds = 0.0
    for one in (network, tf.keras.models.clone_model(network)):
        for whole in (False, True):
            for layer in one.layers[:-1]:
                layer.trainable = whole
            loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            one.compile(tf.keras.optimizers.SGD(RATES["digits"], momentum=0.9), loss)
            one.fit(*(part[: 10 * batch] for part in data), batch_size=batch, verbose=0)
            begun = time.perf_counter()
            one.fit(*data, batch_size=batch, verbose=0)
            seconds += time.perf_counter() - begun
    return 2 * len(data[1]) / seconds  # both networks see the same


def run(program: str, lab: str, steps: int) -> float:
    """Run *program* of *lab* in a process of its own; its samples per second."""
    own = [__file__, "--lab", lab, "--steps", str(steps), "--only-keras"]
    with tempfile.TemporaryDirectory() as results:
        ours = [
            "-m",
            f"labs.{lab}",
            LENGTH.get(lab, "--steps"),
            str(steps),
            "--results",
            results,
            *MORE.get(lab, []),
        ]
        done = subprocess.run(
            [sys.executable, *(ours if program == "lab" else own)],
            env=os.environ | {"PYTHONPATH": str(JOBS), "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{program} of {lab} failed:\n{done.stdout}{done.stderr}")
    told = json.loads(re.findall(r"(?m)^RESULT (.*)$", done.stdout)[-1])
    return float(told[f"{UNIT[lab]}_per_s"])


def main() -> int:
    """Measure, print a table and a JSON line; status 1 where a lab is the slower one."""
    parser = argparse.ArgumentParser(description="Labs against Keras.")
    parser.add_argument("--lab", action="append", choices=STEPS, help="one of them (default: all)")
    parser.add_argument("--steps", type=int, help=f"steps of each run (default: {STEPS})")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program")
    parser.add_argument("--only-keras", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    steps = {lab: given.steps or STEPS[lab] for lab in given.lab or STEPS}
    if given.only_keras:
        [(lab, count)] = steps.items()
        print(f"RESULT {json.dumps({f'{UNIT[lab]}_per_s': keras(lab, count)})}")
        return 0
    rates: dict[str, dict[str, list[float]]] = {lab: {"Keras": [], "lab": []} for lab in steps}
    for turn in range(given.rounds):
        for lab, programs in rates.items():
            for program, seen in programs.items():
                seen.append(run(program, lab, steps[lab]))
            print(
                f"{turn + 1}  {lab:<20} {programs['Keras'][-1]:>10,.0f} {programs['lab'][-1]:>10,.0f}",
                flush=True,
            )
    print(f"\n{'lab':<20} {'program':<7} {'samples/s':>10} {'smallest':>10} {'largest':>10}")
    ratios = {}
    for lab, programs in rates.items():
        for program, seen in programs.items():
            print(f"{lab:<20} {program:<7} {median(seen):>10,.0f} {min(seen):>10,.0f} {max(seen):>10,.0f}")
        ratio = ratios[lab] = round(median(programs["lab"]) / median(programs["Keras"]), 3)
        verdict = "reached" if ratio >= MUST else "NOT REACHED"
        print(f"{lab:<20} {ratio:.2f} times Keras; must be {MUST}: {verdict}; meant to be {AIM}")
    print(json.dumps({"rates": rates, "ratios": ratios, "cpus": sorted(os.sched_getaffinity(0))}))
    return int(any(ratio < MUST for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
