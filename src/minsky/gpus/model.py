"""What a node's GPUs are and how they are wired, whichever command told it.

Written for Python 3.9 and nothing but its standard library, like the parsers: they also run on nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any

from minsky.errors import MinskyError

LARGEST_ID = 65535  # of a CPU or a NUMA node; what exceeds it is damaged text, not hardware
INTERVAL = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


class RefusedError(MinskyError):
    """A text that is no recording which can be read; the only error that reading a text raises."""


class ContradictionError(MinskyError):
    """Recordings that cannot be of one node."""


@dataclass
class Problem:
    """What is wrong or missing in a recording, and in which of its lines (from 1; None: in the whole)."""

    line: int | None
    what: str


@dataclass
class NVLink:
    """One NVLink of one GPU, as the GPU numbers them."""

    link: int
    gb_s: float | None = None  # per direction, as the driver states it
    active: bool | None = None  # None: the recording cannot tell
    remote: str | None = None  # "GPU1", "switch" or "cpu"


@dataclass
class GPU:
    """A GPU; None and empty lists stand for what the recording does not tell."""

    index: int
    model: str | None = None
    uuid: str | None = None
    bus_id: str | None = None  # domain:bus:device.function, the domain in 8 digits
    memory_mib: int | None = None
    socket: int | None = None
    cpu_affinity: list[int] = field(default_factory=list)  # logical CPUs
    numa: list[int] = field(default_factory=list)  # NUMA nodes whose memory is near
    numa_id: int | None = None  # NUMA node that the GPU's own memory is
    nvlinks: list[NVLink] | None = None
    mig: list[dict[str, str | None]] = field(default_factory=list)  # profile and uuid of each MIG device


@dataclass
class Link:
    """The NVLinks between GPUs *a* < *b*: how many, of which active (None: the recording cannot tell)."""

    a: int
    b: int
    count: int
    active: int | None = None


@dataclass
class NIC:
    """A network adapter; *device* where the name is nvidia-smi's own, as in its NIC legend."""

    name: str
    device: str | None = None


@dataclass
class NumaNode:
    """A NUMA node; without CPUs it is memory alone, on POWER9 that of a GPU (0 MiB: offline)."""

    node: int
    cpus: list[int] = field(default_factory=list)
    memory_mib: int | None = None


@dataclass
class CPUs:
    """A node's processors; *cores* per socket, *threads* per core that are online."""

    model: str | None = None
    sockets: int | None = None
    cores: int | None = None
    threads: int | None = None
    online: list[int] = field(default_factory=list)
    numa: list[NumaNode] = field(default_factory=list)
    distances: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class Topology:
    """What one command, or several together, told of a node.

    *paths* gives what lies between two devices in today's words (X itself left out): every pair once, under
    the one that nvidia-smi lists first. *complete* judges the recording as the command that it is.
    """

    source: str
    complete: bool = True
    gpus: list[GPU] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    nics: list[NIC] = field(default_factory=list)
    paths: dict[str, dict[str, str]] = field(default_factory=dict)
    cpus: CPUs | None = None
    problems: list[Problem] = field(default_factory=list)

    def problem(self, line: int | None, what: str) -> None:
        """Note *what* is missing or wrong in *line*: what was read is then not all that there is."""
        self.problems.append(Problem(line, what))
        self.complete = False

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's objects; `cpus` only where a command told of them."""
        shown = asdict(self)
        if self.cpus is None:
            del shown["cpus"]
        return {"complete": shown.pop("complete"), **shown}

    def check_unique(self, lines: dict[int, int]) -> None:
        """Note GPUs that share what no two can share; *lines*: where the GPU at a position is named."""
        for name in ("index", "uuid", "bus_id"):
            seen: dict[Any, int] = {}
            for position, gpu in enumerate(self.gpus):
                value = getattr(gpu, name)
                if value is not None and seen.setdefault(value, position) != position:
                    self.problem(
                        lines.get(position),
                        f"{name} {value} comes a second time: two GPUs cannot share it, so texts were mixed",
                    )

    def check_gaps(self, lines: dict[int, int]) -> None:
        """Note GPUs that the numbering leaves out; *lines*: where the GPU at a position is named."""
        expected = 0
        for position, gpu in enumerate(self.gpus):
            if gpu.index > expected:
                missing = format_list(range(expected, gpu.index))
                self.problem(
                    lines.get(position), f"GPU {missing} is missing before GPU {gpu.index}: lost, or left out"
                )
            expected = max(expected, gpu.index + 1)


@lru_cache(maxsize=1024)
def cpu_list(text: str) -> tuple[int, ...] | None:
    """Return the numbers of a list such as `0-19,40-59` or `0-0,8-8`, sorted; None where *text* is none."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = INTERVAL.fullmatch(part.strip())
        if not match:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last > LARGEST_ID:
            return None
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def format_list(numbers: Iterable[int]) -> str:
    """Return *numbers* as a list such as `0-19,40-59`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def bus_id(text: str) -> str:
    """Return a PCI address with its domain in 8 digits, as NVML writes it: `0002:01:00.0` has 4."""
    domain, rest = text.split(":", 1)
    return f"{domain:0>8}:{rest}".upper()


def merge(parts: list[Topology]) -> Topology:
    """Return what several recordings of one node tell together.

    Raises:
        ContradictionError: they differ where one node can have but one value.
    """
    first, *others = parts
    if not others:
        return first
    whole = Topology(" + ".join(part.source for part in parts), all(part.complete for part in parts))
    whole.problems = [
        Problem(problem.line, f"{part.source}: {problem.what}") for part in parts for problem in part.problems
    ]
    gpus: dict[int, GPU] = {}
    for part in parts:
        for gpu in part.gpus:
            _fill(gpus.setdefault(gpu.index, GPU(gpu.index)), gpu, f"GPU {gpu.index}")
        for name in ("links", "nics", "paths"):
            value = getattr(part, name)
            if value and getattr(whole, name) not in ([], {}, value):
                raise ContradictionError(f"the recordings differ in {name}: they are not of one node")
            setattr(whole, name, value or getattr(whole, name))
        if part.cpus:
            whole.cpus = whole.cpus or CPUs()
            _fill(whole.cpus, part.cpus, "the processors")
    whole.gpus = [gpus[index] for index in sorted(gpus)]
    sizes = {len(part.gpus) for part in parts if part.gpus}
    if len(sizes) > 1:
        whole.problem(None, f"one recording has {min(sizes)} GPUs, another {max(sizes)}")
    return whole


def _fill(into: Any, told: Any, whose: str) -> None:
    for name in (each.name for each in fields(told)):
        old, new = getattr(into, name), getattr(told, name)
        if new in (None, [], {}):
            continue
        if name == "numa" and isinstance(told, CPUs):
            new = _numa(old, new)
        elif old not in (None, [], {}, new):
            raise ContradictionError(
                f"the recordings differ in {name} of {whose} ({old}, then {new}): they are not of one node"
            )
        setattr(into, name, new)


def _numa(old: list[NumaNode], new: list[NumaNode]) -> list[NumaNode]:
    nodes = {node.node: NumaNode(node.node) for node in [*old, *new]}
    for node in [*old, *new]:
        _fill(nodes[node.node], node, f"NUMA node {node.node}")
    return [nodes[number] for number in sorted(nodes)]
