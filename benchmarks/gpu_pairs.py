"""How often a job of two GPUs gets two that are not wired together, by a real slurmctld.

On a login host of a cluster whose nodes have GPUs, real or simulated, as an ordinary user:

    python3 gpu_pairs.py --node node1 --wired 0-1,2-3 --length 4

Every sequence of --length events is tried on one node that is otherwise empty: a job of 1, 2 or 4 GPUs
begins, or one of those that run ends. What Slurm could not start at once ends the sequence: nothing waits.
What a job got is what `scontrol show job --details` says. Each policy below is a set of options that a user
or a partition adds; of each, the table has how many jobs of two GPUs there were, how many of them got a
pair that is not wired, in how many of these a wired pair was free, and how many were not started although
two GPUs were free.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

POLICIES = {
    "--gres=gpu:N": "--gres=gpu:{}",
    "--gres=gpu:N --gres-flags=enforce-binding": "--gres=gpu:{} --gres-flags=enforce-binding",
    "--gres=gpu:N --cpus-per-task=1": "--gres=gpu:{} --cpus-per-task=1",
    "--gpus-per-node=N": "--gpus-per-node={}",
    "--gpus-per-task=N": "--gpus-per-task={}",
}
SIZES = (1, 2, 4)


def tell(*words: str) -> str:
    """Return what a command prints."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


class Node:
    """The GPUs of a node, and the jobs that hold them."""

    def __init__(self, name: str, policy: str, count: int) -> None:
        self.name, self.policy, self.count = name, policy, count
        self.jobs: list[tuple[str, frozenset[int]]] = []

    @property
    def free(self) -> frozenset[int]:
        """GPUs that no job holds."""
        return frozenset(range(self.count)).difference(*(held for _, held in self.jobs))

    def begin(self, gpus: int) -> frozenset[int] | None:
        """Start a job of so many GPUs; those that it got, or None where it would wait."""
        options = POLICIES[self.policy].format(gpus)
        done = subprocess.run(
            ["salloc", "--no-shell", "--immediate=9", "--nodes=1", "--ntasks=1", "--mem=64", "--time=5",
             "--job-name=pairs", f"--nodelist={self.name}", *options.split()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        granted = re.search(r"Granted job allocation (\d+)", done.stderr)
        if not granted:
            return None
        shown = tell("scontrol", "--details", "show", "job", granted[1])
        indexes = re.search(r"GRES=gpu(?::\w+)?:\d+\(IDX:([\d,-]+)\)", shown)
        if not indexes:
            sys.exit(f"gpu_pairs: scontrol does not tell which GPUs job {granted[1]} holds:\n{shown}")
        held = frozenset(
            number
            for part in indexes[1].split(",")
            for first, last in [(part.split("-") * 2)[:2]]
            for number in range(int(first), int(last) + 1)
        )
        self.jobs.append((granted[1], held))
        return held

    def end(self, which: int) -> None:
        """End the job that began as number *which* of those that run, and wait until its GPUs are free."""
        number, _ = self.jobs.pop(which)
        subprocess.run(["scancel", number], check=False)
        while tell("squeue", "--noheader", f"--jobs={number}", "--format=%T").strip():
            time.sleep(0.02)

    def clear(self) -> None:
        """End all."""
        while self.jobs:
            self.end(-1)


def sequences(length: int, gpus: int) -> Iterator[list[str]]:
    """Yield every sequence of *length* events that asks for no more GPUs than there are, "+2" or "-0".

    It ends on a job of two: what comes after the last of them shows nothing more.
    """

    def grow(events: list[str], running: list[int]) -> Iterator[list[str]]:
        if len(events) == length:
            if events[-1] == "+2":
                yield events
            return
        for size in SIZES:
            if sum(running) + size <= gpus:
                yield from grow([*events, f"+{size}"], [*running, size])
        for which in range(len(running)):
            yield from grow([*events, f"-{which}"], [*running[:which], *running[which + 1 :]])

    yield from grow([], [])


def study(node: Node, wired: set[frozenset[int]], length: int) -> dict[str, Any]:
    """Try all sequences of up to *length* events; the counts, and the sequences that split a pair."""
    counts: dict[str, Any] = {"sequences": 0, "started": 0, "split": 0, "needlessly": 0}
    split: list[str] = []
    for events in [events for many in range(1, length + 1) for events in sequences(many, node.count)]:
        counts["sequences"] += 1
        *before, last = events  # the ones before were each the last of a shorter sequence
        if all(happens(node, event) for event in before):
            free = node.free
            held = node.begin(int(last))
            counts["started"] += held is not None
            if held is not None and held not in wired:
                counts["split"] += 1
                counts["needlessly"] += any(pair <= free for pair in wired)
                others = [sorted(gpus) for _, gpus in node.jobs[:-1]]
                split.append(f"{' '.join(events)} got {sorted(held)} beside {others}")
        node.clear()
    return counts | {"sequences that split": split}


def happens(node: Node, event: str) -> bool:
    """Let *event* happen, where Slurm does it at once."""
    if event.startswith("+"):
        return node.begin(int(event)) is not None
    node.end(int(event[1:]))
    return True


def main() -> int:
    """Measure, print a table and a JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", required=True, help="an idle node that has the GPUs")
    parser.add_argument(
        "--wired", default="0-1,2-3", help="pairs with NVLinks between them (default: %(default)s)"
    )
    parser.add_argument("--gpus", type=int, default=4, help="that the node has (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=4, help="events of the longest sequence (default: %(default)s)"
    )
    parser.add_argument(
        "--policy",
        action="append",
        choices=POLICIES,
        help="only this one (--policy=--gres=gpu:N); may be repeated",
    )
    given = parser.parse_args()
    wired = {frozenset(map(int, pair.split("-"))) for pair in given.wired.split(",")}
    found = {}
    for policy in given.policy or POLICIES:
        node = Node(given.node, policy, given.gpus)
        try:
            found[policy] = study(node, wired, given.length)
        finally:
            node.clear()
        print(policy, *(f"{name}: {count}" for name, count in found[policy].items()), sep="\n  ", flush=True)
    print(json.dumps({"length": given.length, "policies": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
