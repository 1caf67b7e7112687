"""`python -m minsky.gpus`: the GPUs of this node or of a recording, beside what they should be."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from minsky.errors import MinskyError, speak_plainly
from minsky.gpus import READABLE, recordings, show
from minsky.gpus.classes import available, load
from minsky.gpus.compare import compare
from minsky.gpus.model import Topology, merge

EPILOG = f"""what can be read: {READABLE}

exit status: 0 whole (diff: as expected), 1 read but incomplete or with problems (diff: something differs),
2 refused: another command's output, no such file or class, nothing to read

examples:
  python -m minsky.gpus show                                       this node: NVML, else nvidia-smi
  nvidia-smi topo -m | python -m minsky.gpus show --recorded -     what the standard input says
  python -m minsky.gpus show --recorded topo.txt --recorded L.txt --picture node.png
  python -m minsky.gpus show --class minsky-p100 --picture minsky.png
  python -m minsky.gpus diff --class minsky-p100                   is this node as it should be?
  python -m minsky.gpus gres --class minsky-p100 --nodes m[01-16]  lines for gres.conf and slurm.conf
  python -m minsky.gpus propose --recorded topo.txt > slurm/classes/NAME.yml

{textwrap.fill(f"classes: {', '.join(available())}; a path ending in .yml names a file of your own", 100)}
"""


def _read(files: list[str]) -> Topology:
    """Return what the recordings tell together, or this node where there are none."""
    if not files:
        from minsky.gpus.live import live  # noqa: PLC0415 - only what is asked for

        return live()
    return merge(recordings.read(files))


def _show(options: argparse.Namespace) -> int:
    if options.node_class:
        node = load(options.node_class)
        topology, title = node.topology(), node.title
    else:
        topology = _read(options.recorded)
        title = (
            f"{len(topology.gpus)} GPUs, {'recorded' if options.recorded else 'told'} by {topology.source}"
        )
    if options.json:
        print(json.dumps(topology.as_json()))
    else:
        _print(*show.tables(topology))
    if options.picture:
        from minsky.gpus.picture import draw  # noqa: PLC0415 - matplotlib takes a second

        draw(topology, options.picture, title)
    return 0 if topology.complete else 1


def _diff(options: argparse.Namespace) -> int:
    node, topology = load(options.node_class), _read(options.recorded)
    rows = compare(topology, node)
    if options.json:
        print(json.dumps({"class": node.name, "rows": list(map(asdict, rows)), **topology.as_json()}))
    else:
        _print(show.comparison(rows, node.name), *([] if topology.complete else show.tables(topology)))
    return 0 if topology.complete and not any(row.same is False for row in rows) else 1


def _gres(options: argparse.Namespace) -> int:
    from minsky.gpus.slurm import fragments  # noqa: PLC0415 - nodes have no ClusterShell

    print(fragments(load(options.node_class), options.nodes, options.smt))
    return 0


def _propose(options: argparse.Namespace) -> int:
    from minsky.gpus.propose import propose  # noqa: PLC0415

    print(propose(_read(options.recorded), options.name), end="")
    return 0


def _print(*shown: object) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for each in shown:
        console.print(each, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minsky.gpus", description=__doc__, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    recorded = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    recorded.add_argument(
        "--recorded", action="append", default=[], metavar="FILE",
        help="a command's output instead of this node; - is the standard input; again: more of the same node",
    )  # fmt: skip
    of_class = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    of_class.add_argument(
        "--class", dest="node_class", required=True, metavar="NAME", help=", ".join(available())
    )

    def verb(
        name: str,
        does: Callable[[argparse.Namespace], int],
        words: str,
        more: str,
        *parents: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:
        said = f"{words[0].upper()}{words[1:]}. {more}"
        made = verbs.add_parser(name, parents=parents, help=words, description=said)
        made.set_defaults(do=does)
        return made

    more = "Exit status 0: whole; 1: incomplete or with problems; 2: refused."
    showing = verb("show", _show, "print GPUs, links and processors", more, recorded)
    showing.add_argument("--class", dest="node_class", metavar="NAME", help="what a class states, instead")
    showing.add_argument("--json", action="store_true", help="as JSON, on one line")
    showing.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw it too: FILE ends in .png or .svg"
    )
    more = "Exit status 0: as expected, as far as is told; 1: something differs; 2: refused."
    differing = verb("diff", _diff, "compare with a class", more, of_class, recorded)
    differing.add_argument("--json", action="store_true", help="as JSON, on one line")
    more = "It installs nothing: put them where Slurm reads them."
    lines = verb("gres", _gres, "print a class's lines for gres.conf and slurm.conf", more, of_class)
    lines.add_argument("--nodes", required=True, metavar="NAMES", help="such as m[01-16]")
    lines.add_argument("--smt", type=int, metavar="N", help="threads per core that are online; default: all")
    more = "It needs topo -m; -L adds models and lscpu cores. Keep it as slurm/classes/NAME.yml."
    proposing = verb("propose", _propose, "print the class of a node that fits none", more, recorded)
    proposing.add_argument("--name", default="new", help="what the file will be called, without .yml")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says."""
    options = _parser().parse_args(argv)
    if getattr(options, "node_class", None) and options.do is _show and options.recorded:
        raise MinskyError(
            "show draws a class or a recording: leave out --class or --recorded; diff compares them"
        )
    status: int = options.do(options)
    return status


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
