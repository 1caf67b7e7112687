"""CaffeNet forward, a batch of 50 images on two cores: TensorFlow, as the lab has it, against OpenCV.

    docker run --rm -v .:/minsky:ro IMAGE python3 /minsky/benchmarks/caffenet_forward.py

IMAGE is the lab's with the layer opencv (`python -m minsky.images build lab --with opencv`). Both have the
same random weights, in one process, and take turns; a turn during which other programs took more than a tenth
of a CPU is repeated. TensorFlow's median is to be at most half of OpenCV's.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from lab_throughput import DISTURBED, JOBS, others

sys.path.insert(0, str(JOBS))
os.environ |= {"OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3"}

import numpy as np

from labs.caffe import files, net, opencv
from labs.labkit.lazy import tf

CORES, IMAGES, FLOOR = 2, 50, 0.5


def programs() -> dict[str, Callable[[], Any]]:
    """Return both, with the same weights and images; each gives the probabilities of 1000 classes."""
    tf.config.threading.set_intra_op_parallelism_threads(CORES)
    tf.config.threading.set_inter_op_parallelism_threads(CORES)
    opencv.load().setNumThreads(CORES)
    blobs = net.random(seed=1)
    images = np.random.default_rng(1).normal(0, 70, (IMAGES, net.SIZE, net.SIZE, 3)).astype(np.float32)
    weights = net.variables(blobs)
    forward = tf.function(lambda batch: net.activations(weights, batch)["prob"])
    batch, channels_first = tf.constant(images), np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    network = opencv.network(files.model(blobs), net.SIZE)

    def in_opencv() -> Any:
        network.setInput(channels_first)
        return network.forward()

    return {"OpenCV": in_opencv, "TensorFlow": lambda: forward(batch).numpy()}


def main() -> int:
    """Measure, print a table and a JSON line; status 1 where the floor is not reached."""
    parser = argparse.ArgumentParser(description="CaffeNet forward: TensorFlow against OpenCV.")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each")
    parser.add_argument("--minutes", type=float, default=30, help="how long to wait for an idle machine")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    both = programs()
    for run in both.values():
        run()  # the first time, each makes its threads and memory
    seconds: dict[str, list[float]] = {name: [] for name in both}
    deadline, taken = time.monotonic() + 60 * given.minutes, others()
    next(taken)
    while min(map(len, seconds.values())) < given.rounds:
        if time.monotonic() > deadline:
            sys.exit(
                f"the machine was never idle enough in {given.minutes:g} min: measure when nothing else runs"
            )
        turn = {}
        for name, run in both.items():
            begun = time.perf_counter()
            run()
            turn[name] = time.perf_counter() - begun
        if (share := next(taken)) > DISTURBED:
            print(f"discarded: other programs took {share:.2f} CPUs", flush=True)
            time.sleep(2)
            next(taken)
            continue
        for name, value in turn.items():
            seconds[name].append(value)
    for name, values in seconds.items():
        print(f"{name:<10} {median(values):.3f} s   smallest {min(values):.3f}, largest {max(values):.3f}")
    ratio = median(seconds["TensorFlow"]) / median(seconds["OpenCV"])
    verdict = "reached" if ratio <= FLOOR else "NOT REACHED"
    print(f"TensorFlow takes {ratio:.3f} of OpenCV's time; at most {FLOOR}: {verdict}")
    print(json.dumps({"cpu": cpu(), "seconds": seconds, "ratio": ratio}))
    return int(ratio > FLOOR)


def cpu() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
