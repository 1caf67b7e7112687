"""GPUs and how they are wired, as data: read from recorded commands or from the node itself.

`python -m minsky.gpus show` prints it, `diff` compares it with a node class (slurm/classes/), `gres` prints
Slurm's lines for a class, `propose` the class of a node that fits none.
"""

from __future__ import annotations

import re
from types import ModuleType

from minsky.gpus import details, listing, lscpu, numactl, nvlink, query, topo
from minsky.gpus.model import Problem, RefusedError, Topology
from minsky.gpus.text import Text, clean

__all__ = ["RefusedError", "Topology", "parse"]

# A line of another command's output, its name, and what to record instead. The first are asked before any
# parser: their headings are those of `-L` or `topo -m`.
OTHERS = [
    (r"\s*Link [0-9]+, .{1,40}(?:supported|atomics)", "nvlink --capabilities", "nvidia-smi nvlink --status"),
    (
        r"\s*Link [0-9]+: (?:Replay|Recovery|CRC|ECC|FLIT)",
        "nvlink --errorcounters",
        "nvidia-smi nvlink --status",
    ),
    (r"\s*Link [0-9]+: (?:Remote|[0-9A-Fa-f]{4,8}:)", "nvlink --remotelinkinfo", "nvidia-smi topo -m"),
    (r"\s*NVLE\s*:", "nvlink --info", "nvidia-smi nvlink --status"),
    (r"(?=.*\bpid\b)(?:\w+, )*(?:process_name|used_gpu_memory|gpu_uuid)", "nvidia-smi --query-compute-apps",
     "nvidia-smi --query-gpu=index,name,uuid --format=csv"),
    (r"(?:\w+, )*retired_pages\.(?:address|cause)", "nvidia-smi --query-retired-pages",
     "nvidia-smi --query-gpu=index,name,uuid --format=csv"),
    (r"\s*(?:<\?xml|<nvidia_smi_log)", "nvidia-smi -q -x (XML)", "nvidia-smi -q"),
]  # fmt: skip
UNREADABLE = [
    (r"\|? ?NVIDIA-SMI [0-9]|\| +[0-9]+ +.*\|.*\|.*\|$|\+-{9}", "the plain nvidia-smi table",
     "nvidia-smi topo -m, or nvidia-smi -q"),
    (r"\s*GPU\s+(?:GI|PID)\b|# gpu ", "nvidia-smi pmon or dmon", "nvidia-smi -q"),
    (r"Applications clocks ", "nvidia-smi --applications-clocks", "nvidia-smi -L"),
    (r"(?:CA '\S+'|ibpanic:)", "ibstat", "nvidia-smi topo -m for how adapters are attached"),
    (r"Core +[0-9]+: +[0-9]", "ppc64_cpu --info", "lscpu"),
    (r"SMT(?:=| is )", "ppc64_cpu --smt", "lscpu"),
    (r"\s*(?:Machine|Package|NUMANode).{0,9}\(", "lstopo", "lscpu or numactl -H"),
    (r'\s*\{|\s*"', "JSON", "the command's plain text"),
]  # fmt: skip
LONGEST = 8192  # characters of a line: 1,600 CPUs of `numactl -H`
READABLE = "topo -m, -L, --query-gpu=... --format=csv, nvlink --status, nvlink -g, -q, lscpu, numactl -H"
# listing is last: its line also heads a GPU's links
PARSERS: tuple[ModuleType, ...] = (topo, nvlink, details, query, lscpu, numactl, listing)
PASSING = (details, lscpu)  # which pass over lines that they do not know
ENDLESS = (nvlink, details, query, listing)  # whose recordings may end after any line


def parse(text: str) -> Topology:
    """Return what *text* tells, the output of any of the commands that are read here.

    Source: the output formats of nvidia-smi (drivers 367 to 580), util-linux' lscpu and numactl.

    Raises:
        RefusedError: it is another command's output, or nobody's; the only error, whatever the text.
    """
    cleaned = clean(text)
    if not cleaned.lines and not cleaned.failures:
        raise RefusedError(f"the text is empty: record one of {READABLE}")
    if any(len(line) > LONGEST for _, line in cleaned.lines):
        raise RefusedError(
            f"a line has more than {LONGEST} characters: no command that is read here writes such"
        )
    _refuse(cleaned, OTHERS)
    parser = next((parser for parser in PARSERS if parser.recognises(cleaned)), None)
    if parser is topo and topo.is_p2p(cleaned):
        raise RefusedError(
            "this is 'topo -p2p', which tells what GPUs may do to each other, not how they are wired: "
            "record nvidia-smi topo -m"
        )
    if parser:
        topology: Topology = parser.parse(cleaned)
    else:
        _refuse(cleaned, UNREADABLE)
        if not cleaned.failures:
            raise RefusedError(f"the text is no output of a command that is read here; those are {READABLE}")
        topology = Topology("nvidia-smi", complete=False)
    for failure in cleaned.failures:
        topology.problem(failure.line, failure.what)
    for line in cleaned.left_out if parser in ENDLESS else ():
        topology.problem(line, "lines are left out here")
    if parser in PASSING:
        others = [other for other in PARSERS if other is not parser and other.recognises(cleaned)]
        lines = [n for n, line in cleaned.lines if any(each.recognises(Text([(n, line)])) for each in others)]
        for line in lines[:1]:
            topology.problem(line, f"another command's output stands here: {topology.source} alone is read")
    topology.problems = _fold(sorted(topology.problems, key=lambda problem: problem.line or 0))
    return topology


def _refuse(text: Text, others: list[tuple[str, str, str]]) -> None:
    anything = re.compile("|".join(pattern for pattern, _, _ in others))
    first = next((line for _, line in text.lines if anything.match(line)), None)
    for pattern, name, instead in others if first else ():
        if re.match(pattern, first or ""):
            raise RefusedError(f"this is {name}, which does not tell how GPUs are wired: record {instead}")


def _fold(problems: list[Problem]) -> list[Problem]:
    """Return *problems* with lines that belong to nothing told once for each run of them."""
    folded: list[Problem] = []
    run = 0
    for problem in problems:
        foreign = "is no line of this command" in problem.what
        if foreign and run and folded[-1].line is not None:
            run += 1
            folded[-1].what = f"{folded[-1].what.split(' (and ')[0]} (and {run - 1} more lines)"
            continue
        run = 1 if foreign else 0
        folded.append(problem)
    return folded
