"""`python -m minsky.nodecheck`: is this node fit for jobs?"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from minsky.errors import MinskyError, speak_plainly
from minsky.gpus import recordings
from minsky.gpus.classes import NONE
from minsky.gpus.model import merge
from minsky.nodecheck import report
from minsky.nodecheck.check import FAILED, SKIPPED, Check, registered
from minsky.nodecheck.node import FILE, read
from minsky.nodecheck.run import run

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNKNOWN = 3  # to Nagios: not judged
EPILOG = f"""\
Each check ends within its limit, all within 10 s; a tool that is missing and a check that hangs are failures.
A warning is told, and fails nothing. What --measure adds comes after them, one at a time, each with a limit
of its own.

exit status: 0 nothing failed, 1 a check failed, 2 refused: no node file or class, or a wrong one
--nagios:    0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (refused)

a node file ({FILE}); all but class may be left out:
  class: minsky-p100.yml       # beside this file, or the name of a class; {NONE}: a node without GPUs
  mounts:
    /shared: {{type: fuse.glusterfs}}
    /opt/images: {{type: nfs*, writable: false}}
  container: apptainer exec /opt/images/lab.sif true
  infiniband: {{ports: 2, gbit_s: 100}}   # else the ports that the class states
  smt: 8                       # else any that the class allows
  memory_mib: 500000           # at least; memory_free_mib: 512, time_offset_ms: 100
  clocks: "715,1328"           # application clocks, as nvidia-smi -ac takes them
  skip: {{time: "the host keeps it"}}     # checks that these nodes cannot have, and why

examples:
  python -m minsky.nodecheck                                   this node, by its file
  python -m minsky.nodecheck --class minsky-p100 --only gpus,nvlinks
  python -m minsky.nodecheck --measure                         copies to and between GPUs, too
  python -m minsky.nodecheck --class minsky-p100 --recorded topo.txt --recorded lscpu.txt
  python -m minsky.nodecheck --list                            the checks, and what each expects
  python -m minsky.nodecheck --zipapp nodecheck.pyz            one file for nodes: then
  ./nodecheck.pyz --class ./minsky-p100.yml --nagios
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minsky.nodecheck", allow_abbrev=False, epilog=EPILOG,
        description="Check whether this node is what it should be, all checks side by side.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--node", type=Path, metavar="FILE", help=f"the node file; default: {FILE}")
    parser.add_argument("--class", dest="node_class", metavar="NAME", help="the class, or a .yml file of one")
    parser.add_argument("--only", default="", metavar="NAMES", help="these checks alone, by commas")
    parser.add_argument("--skip", default="", metavar="NAMES", help="not these checks, by commas")
    parser.add_argument(
        "--measure", action="store_true", help="bandwidths too, beside the class's floors; takes the GPUs"
    )
    parser.add_argument(
        "--recorded", action="append", metavar="FILE",
        help="judge a command's output instead of this node; again: more of the same node",
    )  # fmt: skip
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="one object on one line")
    shown.add_argument("--nagios", action="store_true", help="a status line and Nagios' exit status")
    shown.add_argument(
        "--reason", action="store_true", help="only what failed, as Slurm's reason for a drain"
    )
    shown.add_argument("--list", action="store_true", help="what there is to check; checks nothing")
    shown.add_argument(
        "--zipapp", type=Path, metavar="FILE", help="write all of it as one file; checks nothing"
    )
    parser.add_argument(
        "--python", default="/usr/bin/python3", metavar="PATH", help="the nodes' Python, for --zipapp"
    )
    return parser


def _names(told: str, checks: dict[str, Check], where: str) -> list[str]:
    names = [name.strip() for name in told.split(",") if name.strip()]
    for name in names:
        if name not in checks:
            close = get_close_matches(name, checks, 1)
            meant = f": did you mean {close[0]}?" if close else ""
            raise MinskyError(f"{where}: there is no check '{name}'{meant} There are {', '.join(checks)}")
    return names


def _check(options: argparse.Namespace, checks: dict[str, Check]) -> int:
    began = time.monotonic()
    node = read(options.node, options.node_class)
    if options.recorded:
        node = replace(node, recorded=tuple(recordings.read(options.recorded)))
        merge(list(node.recorded or ()))  # refuses those of several nodes
    only = _names(options.only, checks, "--only")
    skip = {name: node.skip[name] for name in _names(",".join(node.skip), checks, "skip")}
    skip.update(dict.fromkeys(_names(options.skip, checks, "--skip"), "by --skip"))
    chosen = only or [name for name, each in checks.items() if options.measure or not each.measures]
    results = run(node, [each for name, each in checks.items() if name in chosen], skip)
    seconds = time.monotonic() - began
    if all(result.verdict == SKIPPED for result in results):
        why = "; ".join(f"{result.name}: {result.found}" for result in results)
        raise MinskyError(f"nothing is left to check, which tells nothing of the node ({why})")
    host = ", ".join(Path(file).name for file in options.recorded or ()) or platform.node()
    worst = report.worst(results)
    if options.nagios:
        print(report.nagios(results, seconds))
        return report.NAGIOS[worst]
    if options.json:
        print(report.as_json(results, host, node, seconds))
    elif not options.reason:
        print(report.text(results, host, node, seconds))
    elif worst == FAILED:
        print(report.reason(results))
    return int(worst == FAILED)


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says."""
    options = _parser().parse_args(argv)
    os.environ.setdefault("PATH", SEARCH)  # Slurm's prolog has none
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and kill what was started
    checks = registered()
    if options.list:
        width = max(map(len, checks))
        for each in checks.values():
            print(f"{each.name:{width}}  {each.seconds:3g} s  {each.about}{' (--measure)' * each.measures}")
        return 0
    if options.zipapp:
        from minsky.nodecheck.bundle import write  # noqa: PLC0415 - nodes need it not

        write(options.zipapp, options.python)
        return 0
    try:
        return _check(options, checks)
    except MinskyError as error:
        if not options.nagios:
            raise
        print(f"NODECHECK UNKNOWN - {error}".replace("\n", "; ").replace("|", "/"))
        return UNKNOWN


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
