"""`python -m minsky.cluster`: the verbs on the virtual cluster."""

import argparse
import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from minsky import cluster
from minsky.demo import demo, lab_help
from minsky.errors import MinskyError, speak_plainly
from minsky.gpus.classes import NONE, available
from minsky.stages import Stages, console
from minsky.virtual import DEFAULT_NODES, MAX_NODES


def up(nodes: str | None, pose: str | None) -> None:
    """Bring the cluster up, and say what it took."""
    stages = Stages("up")
    wanted = cluster.up(nodes, stages, pose=pose)
    console.print(f"\nSeconds per stage:\n{stages.table()}\n")
    posed = cluster.posing()
    hardware = "" if posed == NONE else f", simulated ones of class {posed},"
    console.print(f"control and {wanted} compute node(s){hardware} are up. Log in with: make shell")


class Verb(NamedTuple):
    """What a verb does with the options and further arguments, in words and in deed."""

    words: str
    do: Callable[[argparse.Namespace, list[str]], int | None]
    changes: bool = True  # something: no two such commands at once


VERBS = {
    "up": Verb(
        "boot and provision the cluster; again: repair what has drifted",
        lambda options, _: up(options.nodes, options.node_class),
    ),
    "demo": Verb(
        "all that is missing, then train a network on two nodes; options it does not know go to the lab",
        lambda options, rest: demo(options.nodes, rest, options.node_class),
    ),
    "fault": Verb(
        "let --node have a simulated --fault, for which the cluster must notice; none mends",
        lambda options, _: cluster.fault(options.node, options.fault),
    ),
    "status": Verb(
        "which virtual machines run, and what Slurm says of them",
        lambda *_: cluster.status(),
        changes=False,
    ),
    "shell": Verb(
        f"log in on the cluster as {cluster.USER}",
        lambda *_: cluster.shell(),
        changes=False,
    ),
    "down": Verb(
        "remove the virtual machines and their network; images and caches stay",
        lambda *_: cluster.down(),
    ),
    "remains": Verb(
        "remove what killed runs left in Docker; with CI=true also what other checkouts have there",
        lambda *_: cluster.remains(),
    ),
    "clean": Verb(
        "down, and remove images, caches and .minsky too",
        lambda *_: cluster.clean(),
    ),
}
EPILOG = """verbs:
{verbs}

examples:
  python -m minsky.cluster up --nodes 2       control, node1 and node2
  python -m minsky.cluster up --class minsky-p100             nodes with simulated GPUs of that class
  python -m minsky.cluster fault --node node2 --fault ecc     then, on the cluster: sinfo -R
  python -m minsky.cluster demo --epochs 1    --epochs goes to the lab, as on sbatch's line
  python -m minsky.cluster shell              then: sinfo, sbatch jobs/cnn_horovod.sh, squeue

The Makefile's verbs call these after seeing to .venv: make cluster NODES=2, make demo ARGS="--epochs 1".
""".format(verbs="\n".join(f"  {name:<8} {verb.words}" for name, verb in VERBS.items()))


@contextmanager
def alone() -> Iterator[None]:
    """Hold this checkout's lock; a MinskyError where another command holds it."""
    cluster.LOCK.parent.mkdir(exist_ok=True)
    with cluster.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MinskyError(
                "Another make in this checkout is at work on the cluster: wait for it."
            ) from None
        yield


def see_to_mirror() -> None:
    """Make a directory in MINSKY_DATA absolute, as playbooks run elsewhere; refuse what is no place."""
    mirror = os.environ.get("MINSKY_DATA", "")
    if mirror and "://" not in mirror:
        if not Path(mirror).is_dir():
            raise MinskyError(
                f"MINSKY_DATA is '{mirror}', which is no directory and no URL. Give one that holds mnist/."
            )
        os.environ["MINSKY_DATA"] = str(Path(mirror).resolve())


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m minsky.cluster", description=cluster.__doc__, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of those below")
    parser.add_argument(
        "--nodes", default=os.environ.get("NODES"),
        help=f"compute nodes, 1 to {MAX_NODES}; NODES in the environment; else those up, or {DEFAULT_NODES}",
    )  # fmt: skip
    parser.add_argument(
        "--class", dest="node_class", metavar="CLASS", default=os.environ.get("CLASS"),
        help=f"node class that compute nodes pose as: {', '.join(available())}, or {NONE}; CLASS in "
        f"the environment; else what those up pose as, or {NONE}",
    )  # fmt: skip
    parser.add_argument(
        "--node", default=os.environ.get("NODE"), help="for fault: a compute node; NODE in the environment"
    )
    parser.add_argument(
        "--fault", default=os.environ.get("FAULT"),
        help=f"for fault: {', '.join(cluster.FAULTS)}, or {NONE}; FAULT in the environment",
    )  # fmt: skip
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["demo"] and {"-h", "--help"} & {*words}:
        return lab_help()
    options, rest = parser.parse_known_args(words)
    verb = VERBS[options.verb]
    if rest and options.verb != "demo":
        parser.error(f"{options.verb} does not know {' '.join(rest)}")
    if not verb.changes:
        return verb.do(options, []) or 0
    cluster.node_count(options.nodes)
    cluster.node_class(options.node_class)
    see_to_mirror()
    with alone():
        return verb.do(options, rest) or 0


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
