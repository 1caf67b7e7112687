"""What Horovod costs the CNN lab, on two idle cores: run it in the lab image, with the data staged.

    apptainer exec --bind .:/minsky,$MINSKY_DATA_DIR lab.sif python3 /minsky/benchmarks/lab_throughput.py

- One rank under Horovod against the same program with Horovod taken out: 0.97 or more.
- Two ranks against one, a core each (weak scaling): 0.95 or more.

The programs take turns, so that a slow minute of the machine hits all of them; the figures are medians,
with the smallest and the largest beside them. A run during which other programs took more than a tenth of
a CPU says nothing and is repeated. MPI is set as the jobs set it: read from jobs/labs/launch.sh.
"""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

JOBS = Path(__file__).resolve().parents[1] / "jobs"

DISTURBED = 0.1  # CPUs that other programs take on average
HOURS = 1  # after which the machine is too busy to measure anything
PROGRAMS = {"without Horovod": 1, "one rank": 1, "two ranks": 2}  # name: ranks
FLOORS = {"one rank": ("without Horovod", 0.97), "two ranks": ("one rank", 0.95)}


def settings() -> dict[str, str]:
    """What the job scripts set for MPI and Horovod."""
    text = (JOBS / "labs" / "launch.sh").read_text()
    return dict(re.findall(r'(?m)^ *export ((?:OMPI|HOROVOD)_\w+)=(?:"\$\{\w+:-)?(\w+)', text))


def others() -> Iterator[float]:
    """Yield how many CPUs the programs that were not run from here took since the last question."""
    then, before = time.monotonic(), None
    while True:
        user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
        spent = (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
        now = time.monotonic()
        yield 0.0 if before is None else (spent - before) / (now - then)
        then, before = now, spent


def undisturbed(program: str, steps: int, extra: dict[str, str]) -> dict[str, Any]:
    """Run the lab when, and until, nothing else runs beside it."""
    deadline, taken = time.monotonic() + 3600 * HOURS, others()
    while time.monotonic() < deadline:
        next(taken)
        time.sleep(2)
        if next(taken) <= DISTURBED:
            result = run(program, steps, extra)
            share = next(taken)
            if share <= DISTURBED:
                return result
            print(f"   {program:<16} discarded: other programs took {share:.2f} CPUs", flush=True)
    sys.exit(f"the machine was never idle enough in {HOURS} h: measure {program} when nothing else runs")


def run(program: str, steps: int, extra: dict[str, str]) -> dict[str, Any]:
    """Run the lab once and return its RESULT."""
    environment = os.environ | settings() | extra | {"PYTHONPATH": str(JOBS), "PYTHONDONTWRITEBYTECODE": "1"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    lab = [__file__, "--lab-without-horovod"] if program == "without Horovod" else ["-m", "labs.cnn"]
    launch = ["mpirun", "-n", str(PROGRAMS[program]), "--bind-to", "core"]
    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [*launch, sys.executable, *lab, "--steps", str(steps), "--results", results],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{program} failed:\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def lab_without_horovod() -> None:
    """Run the lab with a Horovod that does nothing, as if its lines were not there."""
    stand_in: Any = ModuleType("horovod.tensorflow")
    stand_in.init = lambda: None
    stand_in.rank = lambda: 0
    stand_in.size = lambda: 1
    stand_in.Sum = None
    stand_in.allreduce = lambda value, op=None: value  # noqa: ARG005
    stand_in.allgather_object = lambda value: [value]
    stand_in.broadcast_variables = lambda variables, root_rank: None  # noqa: ARG005
    sys.modules["horovod"] = ModuleType("horovod")
    sys.modules["horovod.tensorflow"] = stand_in
    runpy.run_module("labs.cnn", run_name="__main__")


def main() -> int:
    """Measure, print a table and a JSON line; status 1 where a floor is not reached."""
    parser = argparse.ArgumentParser(description="What Horovod costs the CNN lab.")
    parser.add_argument("--steps", type=int, default=60, help="training steps of each run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="try a setting")
    given = parser.parse_args()
    extra = dict(pair.split("=", 1) for pair in given.set)
    rates: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    print(f"settings: {settings() | extra}", flush=True)
    for turn in range(given.rounds):
        for program in PROGRAMS:
            result = undisturbed(program, given.steps, extra)
            rates[program].append(result["images_per_s_per_rank"])
            each = f"{rates[program][-1]:7.0f} images/s per rank"
            print(f"{turn + 1}  {program:<16} {each}, CPUs {result['cpus']}", flush=True)
    print(f"\n{'program':<16} {'images/s per rank':>18} {'smallest':>9} {'largest':>8}  ratio")
    ratios = {}
    for program, values in rates.items():
        verdict = ""
        if program in FLOORS:
            base, floor = FLOORS[program]
            ratios[program] = round(median(values) / median(rates[base]), 3)
            word = "reached" if ratios[program] >= floor else "NOT REACHED"
            verdict = f"{ratios[program]:.3f} of {base}; floor {floor}: {word}"
        print(f"{program:<16} {median(values):>18,.0f} {min(values):>9,.0f} {max(values):>8,.0f}  {verdict}")
    print(json.dumps({"settings": settings() | extra, "rates": rates, "ratios": ratios}))
    return int(any(ratios[program] < floor for program, (_, floor) in FLOORS.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--lab-without-horovod"]:
        del sys.argv[1]
        lab_without_horovod()
    else:
        sys.exit(main())
