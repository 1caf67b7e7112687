"""`lscpu`, also with -x (masks): sockets, cores, threads and the CPUs of each NUMA node."""

from __future__ import annotations

import re

from minsky.gpus.model import CPUs, NumaNode, Topology, cpu_list, format_list
from minsky.gpus.text import Text

SOURCE = "lscpu"
LINE = re.compile(r"\s*([^:]{1,60}?)\s*:\s*(.*?)\s*")
ONLINE = re.compile(r"On-line CPU\(s\) (?:list|mask)")
NODE = re.compile(r"NUMA node([0-9]{1,5}) CPU\(s\)", re.ASCII)
MASK = re.compile(r"0x([0-9a-fA-F]{1,4096})", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
COUNTS = {"Socket(s)": "sockets", "Core(s) per socket": "cores", "Thread(s) per core": "threads"}
RELEVANT = re.compile(
    "|".join([ONLINE.pattern, NODE.pattern, *map(re.escape, [*COUNTS, "NUMA node(s)", "Model name"])]),
    re.ASCII,
)


def recognises(text: Text) -> bool:
    """Whether *text* lists the CPUs that are online, or those of a NUMA node."""
    keys = [match[1] for _, line in text.lines if (match := LINE.fullmatch(line))]
    return any(ONLINE.fullmatch(key) or NODE.fullmatch(key) for key in keys)


def _numbers(told: str) -> tuple[int, ...] | None:
    mask = MASK.fullmatch(told)
    if mask:
        bits = bin(int(mask[1], 16))[:1:-1]
        return tuple(cpu for cpu, bit in enumerate(bits) if bit == "1")
    return cpu_list(told) if told else ()


def parse(text: Text) -> Topology:
    """Return the processors that *text* tells of."""
    topology = Topology(SOURCE)
    cpus = topology.cpus = CPUs()
    nodes: tuple[int, int] | None = None  # how many there are, and the line that says so
    seen: set[str] = set()
    for number, line in text.lines:
        match = LINE.fullmatch(line)
        key, told = (match[1], match[2]) if match else ("", "")  # newer ones have lines that only list flags
        if not RELEVANT.fullmatch(key):
            continue
        if key in seen:
            topology.problem(number, f"'{key}' comes a second time: this is more than one recording")
            break
        seen.add(key)
        if key == "NUMA node(s)" and NUMBER.fullmatch(told):
            nodes = int(told), number
        elif key in COUNTS and NUMBER.fullmatch(told):
            setattr(cpus, COUNTS[key], int(told))
        elif key == "Model name":
            cpus.model = told
        else:
            _list(topology, cpus, number, key, told)
    for key, name in COUNTS.items():
        if getattr(cpus, name) is None:
            topology.problem(text.last, f"{key} is not told")
    _check(topology, cpus, nodes, text.last)
    return topology


def _list(topology: Topology, cpus: CPUs, number: int, key: str, told: str) -> None:
    node, numbers = NODE.fullmatch(key), _numbers(told)
    if numbers is None or not (node or ONLINE.fullmatch(key)):
        topology.problem(number, f"'{told[:40]}' says nothing of {key}")
    elif node:
        cpus.numa.append(NumaNode(int(node[1]), list(numbers)))
    else:
        cpus.online = list(numbers)


def _check(topology: Topology, cpus: CPUs, nodes: tuple[int, int] | None, last: int) -> None:
    if not nodes:
        topology.problem(last, "NUMA node(s) is not told: the text is cut off, or the kernel has no NUMA")
    elif nodes[0] != len(cpus.numa):
        topology.problem(
            nodes[1], f"{nodes[0]} NUMA nodes are announced and {len(cpus.numa)} listed: cut off"
        )
    near = [cpu for node in cpus.numa for cpu in node.cpus]
    if not cpus.online:
        topology.problem(last, "which CPUs are online is not told")
    elif cpus.numa and sorted(near) != cpus.online:
        topology.problem(
            last, f"CPUs {format_list(cpus.online)} are online and the NUMA nodes have {format_list(near)}"
        )
