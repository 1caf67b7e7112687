"""How long the lab image takes to start Python and what the labs import: run it in that image.

    apptainer exec --bind .:/minsky lab.sif python3 /minsky/benchmarks/image_start.py

Each start is taken with the bytecode that the image holds and without it (Python then compiles in memory, as
it would at every start in a read-only image without any); the two take turns, and the figures are medians.
"""

import os
import subprocess
import sys
import time
from statistics import median

PROGRAMS = {
    "Python": "pass",
    "NumPy": "import numpy",
    "TensorFlow": "import tensorflow",
    "TensorFlow, Horovod": "import tensorflow, horovod.tensorflow",
}
ROUNDS = 5
HIDDEN = {"PYTHONPYCACHEPREFIX": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}  # bytecode is looked for there


def seconds(program: str, variables: dict[str, str]) -> float:
    """Wall time of one start."""
    begin = time.perf_counter()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print a table."""
    print(f"{'seconds to start':22} {'as it is':>9} {'no bytecode':>12} {'ratio':>6}")
    for name, program in PROGRAMS.items():
        seconds(program, {})  # files into the page cache
        pairs = [(seconds(program, {}), seconds(program, HIDDEN)) for _ in range(ROUNDS)]
        there, hidden = (median(times) for times in zip(*pairs, strict=True))
        print(f"{name:22} {there:9.2f} {hidden:12.2f} {hidden / there:6.2f}")


if __name__ == "__main__":
    main()
