"""How long nodecheck takes: `python benchmarks/nodecheck.py`; the figure in docs/performance.md.

The node is a simulated, healthy Minsky whose programs answer at once: what is measured is Python's start, the
reading of node file and class, and a process for each check. Medians of RUNS whole commands.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minsky.gpus.classes import CLASSES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
RUNS = 15
LIMIT = 2.0  # seconds on a healthy node


def main() -> int:
    """Print seconds of the package and of the one file beside the limit; status 1 where it is missed."""
    from simulated_node import Simulated, unmunge  # noqa: PLC0415 - it is of the tests

    slowest = 0.0
    with tempfile.TemporaryDirectory() as made:
        node, file, archive = Simulated(Path(made)), Path(made, "node.yml"), f"{made}/nodecheck.pyz"
        shutil.copy(CLASSES / "minsky-p100.yml", made)
        file.write_text("class: minsky-p100.yml\ninfiniband: {ports: 0}\nskip: {npu: simulated}\n")
        package = [sys.executable, "-m", "minsky.nodecheck"]
        subprocess.run([*package, "--zipapp", archive], check=True)
        for name, command in (("package", package), ("one file", [sys.executable, "-I", archive])):
            seconds = []
            for _ in range(RUNS):
                node.answer("unmunge", "*", unmunge())  # of now
                began = time.monotonic()
                subprocess.run(
                    [*command, "--node", file], check=True, env=node.environment(), stdout=subprocess.DEVNULL
                )
                seconds.append(time.monotonic() - began)
            slowest = max(slowest, *seconds)
            print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(
        f"slowest {slowest:.2f} s, limit {LIMIT:g} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    return int(slowest > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
