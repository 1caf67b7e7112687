"""`numactl -H`: NUMA nodes with CPUs, memory and distances.

Nodes without CPUs are memory alone; on an AC922 that of the GPUs, 0 MB as long as it is offline. Copies may
have wrapped lists of CPUs.
"""

from __future__ import annotations

import re

from minsky.gpus.model import CPUs, NumaNode, Topology, cpu_list
from minsky.gpus.text import Text

SOURCE = "numactl -H"
AVAILABLE = re.compile(r"\s*available:\s*([0-9]{1,5}) nodes?\s*\(([0-9,-]+)\)\s*", re.ASCII)
NODE_CPUS = re.compile(r"\s*node ([0-9]{1,5}) cpus:((?:\s+[0-9]{1,5})*)\s*", re.ASCII)
NODE_MEMORY = re.compile(r"\s*node ([0-9]{1,5}) (size|free):\s*([0-9]{1,12}) MB\s*", re.ASCII)
HEADING = re.compile(r"\s*node distances:\s*|\s*node((?:\s+[0-9]{1,5})+)\s*", re.ASCII)
DISTANCE = re.compile(r"\s*([0-9]{1,5}):((?:\s+[0-9]{1,5})+)\s*", re.ASCII)
NUMBERS = re.compile(r"[0-9\s]+", re.ASCII)
SELF = 10  # the distance of a node to itself, by ACPI


def recognises(text: Text) -> bool:
    """Whether *text* announces NUMA nodes, or lists the CPUs of one."""
    return any(AVAILABLE.fullmatch(line) or NODE_CPUS.fullmatch(line) for _, line in text.lines)


def parse(text: Text) -> Topology:
    """Return the NUMA nodes that *text* tells of."""
    topology = Topology(SOURCE)
    cpus = topology.cpus = CPUs()
    announced: list[int] = []
    columns: list[int] = []
    nodes: dict[int, NumaNode] = {}
    free: set[int] = set()
    lines = _unwrapped(text)
    for number, line in lines:
        available, heading, distance = (p.fullmatch(line) for p in (AVAILABLE, HEADING, DISTANCE))
        if available and not announced:
            announced = list(cpu_list(available[2]) or ())
            if int(available[1]) != len(announced):
                topology.problem(number, f"{available[1]} nodes are announced, and {len(announced)} named")
        elif heading:
            columns = [int(each) for each in (heading[1] or "").split()]
        elif distance and distance[1] not in cpus.distances:
            cpus.distances[distance[1]] = [int(each) for each in distance[2].split()]
        elif not _node(nodes, free, line, (number, line) == lines[-1]) and "istance info" not in line:
            topology.problem(number, f"'{line.strip()[:40]}' is no line of this command, or comes twice")
    cpus.numa = [nodes[node] for node in sorted(nodes)]
    online = [cpu for node in cpus.numa for cpu in node.cpus]
    cpus.online = sorted(set(online))
    if len(online) > len(cpus.online):
        topology.problem(None, "a CPU belongs to two NUMA nodes")
    _check(topology, announced, columns, free, text.last)
    return topology


def _unwrapped(text: Text) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    for number, line in text.lines:
        if NUMBERS.fullmatch(line) and lines:
            lines[-1] = lines[-1][0], f"{lines[-1][1]} {line.strip()}"
        else:
            lines.append((number, line))
    return lines


def _node(nodes: dict[int, NumaNode], free: set[int], line: str, last: bool) -> bool:
    """Take what *line* tells of a node; False where it tells nothing new."""
    listed, memory = NODE_CPUS.fullmatch(line), NODE_MEMORY.fullmatch(line)
    if listed and int(listed[1]) not in nodes:
        told = listed[2].split()[: -1 if last else None]  # 12 may be left of 127
        nodes[int(listed[1])] = NumaNode(int(listed[1]), sorted(set(map(int, told))))
    elif memory and int(memory[1]) in nodes:
        if memory[2] == "size":
            nodes[int(memory[1])].memory_mib = int(memory[3])
        else:
            free.add(int(memory[1]))
    else:
        return False
    return True


def _check(topology: Topology, announced: list[int], columns: list[int], free: set[int], last: int) -> None:
    cpus = topology.cpus or CPUs()
    told = {node.node for node in cpus.numa if node.memory_mib is not None} & free
    if not announced:
        topology.problem(1, "no line 'available: N nodes': the text's beginning is missing")
    elif told != set(announced):
        missing = ", ".join(map(str, sorted(set(announced) ^ told)))
        topology.problem(
            last, f"nodes are announced and their CPUs, size or free not told, or the reverse: {missing}"
        )
    whole = [*map(str, columns)] == [*cpus.distances] and all(
        len(row) == len(columns) and row[position] == SELF
        for position, row in enumerate(cpus.distances.values())
    )
    if not whole or not columns:
        topology.problem(last, "the matrix of distances is not whole: the text is cut off")
