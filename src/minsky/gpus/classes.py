"""Node classes: what a kind of node should look like, one file of slurm/classes/ each.

A file states processors, GPUs with their cores and links as Slurm writes them, and floors for bandwidths,
each with its source. Adding a class is adding a file; nothing else names them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Optional

from minsky.errors import MinskyError
from minsky.gpus.model import GPU, NIC, CPUs, Link, NVLink, Topology, bus_id, cpu_list, format_list
from minsky.gpus.text import ADDRESS
from minsky.paths import ROOT
from minsky.records import FaultsError, mapping, record

CLASSES = ROOT / "slurm" / "classes"
NONE = "none"  # instead of a class: a node without GPUs
MOST = 1024  # sockets, cores of one, threads of one: more is a slip
SPEED = 0.95  # of the nominal speed: a link that states 19.531 GB/s is one of 20
NUMBERINGS = {
    "block": "the threads of a core have adjacent numbers",
    "split": "first threads of all cores, then second threads",
    "interleaved": "like split, sockets taking turns",
}


class ClassError(MinskyError):
    """A node class that does not exist, cannot be read or contradicts itself."""


@dataclass(frozen=True)
class Processors:
    """*cores* per socket; *threads* per core that the hardware has, *smt* how many may be online."""

    sockets: int
    cores: int
    threads: int
    smt: list[int]
    numbering: str  # of logical CPUs, one of NUMBERINGS
    numa: list[int]  # NUMA nodes with CPUs
    source: str
    gpu_numa: list[int] = field(default_factory=list)  # NUMA nodes that are GPU memory

    def core_indexes(self, cpus: list[int]) -> list[int]:
        """Return Slurm's core indexes of logical *cpus*, the same whatever SMT is set to."""
        total = self.sockets * self.cores
        if self.numbering == "block":
            return sorted({cpu // self.threads for cpu in cpus})
        if self.numbering == "split":
            return sorted({cpu % total for cpu in cpus})
        return sorted({cpu % self.sockets * self.cores + cpu % total // self.sockets for cpu in cpus})

    def socket_cores(self, socket: int) -> range:
        """Return the core indexes of a *socket*."""
        return range(socket * self.cores, (socket + 1) * self.cores)


@dataclass(frozen=True)
class Model:
    """The GPUs; *names* of the model as drivers spell it, none: any. *nvlinks*, *to_cpu*: links of one."""

    names: list[str]
    gres: str  # Slurm's type
    source: str
    memory_mib: int = 0  # as the driver reports it; 0: any
    nvlinks: int = 0
    to_cpu: int = 0


@dataclass(frozen=True)
class Wire:
    """NVLink: *gb_s* per link and direction; *switched*: all of a GPU's links lead to a switch."""

    generation: float
    gb_s: float
    source: str
    switched: bool = False


@dataclass(frozen=True)
class Device:
    """One GPU: nearest *socket*, its *cores*, *links* to each GPU (-1: itself), as in gres.conf."""

    socket: int
    cores: str
    links: list[int]
    bus_id: str = ""


@dataclass(frozen=True)
class Adapters:
    """Network *ports* that `topo -m` lists; 0: not stated."""

    ports: int
    source: str


@dataclass(frozen=True)
class Floor:
    """The least that a measured bandwidth must reach, GB/s in one direction."""

    gb_s: float
    source: str


@dataclass(frozen=True)
class Floors:
    """*host_to_device*: pinned memory, near socket; *peer*: between two linked GPUs (pcie: any two)."""

    host_to_device: Floor
    peer: Floor


@dataclass(frozen=True)
class NodeClass:
    """A class as its file states it; *provenance* says how well it is known."""

    name: str
    title: str
    provenance: str
    cpus: Processors
    gpu: Model
    gpus: list[Device]
    nics: Adapters
    floors: Floors
    nvlink: Optional[Wire] = None  # noqa: UP045 - it is evaluated, in Python 3.9, too

    def topology(self) -> Topology:
        """Return what a node of this class should show."""
        gb_s = self.nvlink.gb_s if self.nvlink else None
        expected = Topology(f"class {self.name}", cpus=CPUs())
        for index, device in enumerate(self.gpus):
            gpu = GPU(
                index, model=self.gpu.names[0] if len(self.gpu.names) == 1 else None, socket=device.socket
            )
            gpu.memory_mib = self.gpu.memory_mib or None
            gpu.bus_id = bus_id(device.bus_id) if device.bus_id else None
            remotes = [f"GPU{other}" for other, count in enumerate(device.links) for _ in range(count)]
            if self.nvlink and self.nvlink.switched:
                remotes = ["switch"] * self.gpu.nvlinks
            remotes += ["cpu"] * self.gpu.to_cpu
            gpu.nvlinks = [NVLink(number, gb_s, True, remote) for number, remote in enumerate(remotes)]
            expected.gpus.append(gpu)
            for other, count in enumerate(device.links[:index]):
                near = device.socket == self.gpus[other].socket
                path = f"NV{count}" if count else "NODE" if near else "SYS"
                expected.paths.setdefault(f"GPU{other}", {})[f"GPU{index}"] = path
                if count:
                    expected.links.append(Link(other, index, count, count))
        expected.links.sort(key=lambda link: (link.a, link.b))
        expected.nics = [NIC(f"NIC{number}") for number in range(self.nics.ports)]
        cpus = self.cpus
        expected.cpus = CPUs(sockets=cpus.sockets, cores=cpus.cores, threads=cpus.threads)
        return expected


def available(directory: Path = CLASSES) -> dict[str, Path]:
    """Return the files of all classes by name, but for one that `>` has just made."""
    return {file.stem: file for file in sorted(directory.glob("*.yml")) if file.stat().st_size}


def load(name: str, directory: Path = CLASSES) -> NodeClass:
    """Return the class *name*, or the one in the file that *name* is the path of.

    Raises:
        ClassError: there is none, it cannot be read, or it contradicts itself.
    """
    known = available(directory)
    file = Path(name) if name.endswith((".yml", ".yaml")) else known.get(name)
    if file is None:
        close = get_close_matches(name, known, 1)
        meant = f": did you mean {close[0]}?" if close else ""
        there = f"there are {', '.join(known)}" if known else f"{directory} holds none"
        raise ClassError(
            f"there is no node class '{name}'{meant} ({there}). A path ending in .yml names a file of "
            "your own"
        )
    try:
        return read(file.read_text(errors="replace"), file)
    except OSError as error:
        raise ClassError(
            f"{file} cannot be read ({error.strerror}): name the file of a node class"
        ) from error


def read(text: str, file: Path) -> NodeClass:
    """Return the class that *text*, the content of *file*, states.

    Raises:
        ClassError: with file, key, and what is wrong there.
    """
    try:
        node_class = record({**mapping(text), "name": file.stem}, NodeClass, hidden=("name",))
    except FaultsError as error:
        raise ClassError("\n".join(f"{file}: {fault}" for fault in error.faults)) from error
    faults = list(_contradictions(node_class))
    if faults:
        raise ClassError("\n".join(f"{file}: {fault}" for fault in faults))
    return node_class


def _contradictions(node: NodeClass) -> list[str]:
    return _processors(node.cpus) or [*_wire(node), *_links(node), *_devices(node), *_floors(node)]


def _processors(cpus: Processors) -> list[str]:
    faults = [
        f"cpus.{key}: {value} is not possible, as there is at least one, and {MOST} at most"
        for key, value in (("sockets", cpus.sockets), ("cores", cpus.cores), ("threads", cpus.threads))
        if not 1 <= value <= MOST
    ]
    if cpus.numbering not in NUMBERINGS:
        words = "; ".join(f"{name}: {meaning}" for name, meaning in NUMBERINGS.items())
        faults.append(f"cpus.numbering: '{cpus.numbering}' is none of {words}")
    if not cpus.smt or cpus.smt != sorted(set(cpus.smt) & set(range(1, cpus.threads + 1))):
        faults.append(
            f"cpus.smt: {cpus.smt} must list some of 1 to {cpus.threads}, the threads of a core, each once "
            "and the fewest first"
        )
    numa = [*cpus.numa, *cpus.gpu_numa]
    if len({*numa}) < len(numa) or min(numa, default=0) < 0:
        faults.append(
            f"cpus.numa: {cpus.numa} and cpus.gpu_numa: {cpus.gpu_numa} must be numbers of NUMA nodes, each "
            "once"
        )
    return faults


def _links(node: NodeClass) -> list[str]:
    faults, size = [], len(node.gpus)
    switched = node.nvlink is not None and node.nvlink.switched
    for index, device in enumerate(node.gpus):
        key, links = f"gpus[{index}].links", device.links
        if len(links) != size:
            faults.append(f"{key}: {len(links)} entries for {size} GPUs: one for each, -1 for itself")
            continue
        if [position for position, count in enumerate(links) if count < 0] != [index] or links[index] != -1:
            faults.append(f"{key}: {links} must have -1 at place {index}, for itself, and nowhere else")
        for other, count in enumerate(links[:index]):
            back = node.gpus[other].links
            if index < len(back) and back[index] != count:
                faults.append(
                    f"{key}: {count} links to GPU {other}, whose row says {back[index]} to GPU {index}: "
                    "a link has two ends, so the matrix is symmetric"
                )
        counts = [count for count in links if count > 0]
        used = (max(counts, default=0) if switched else sum(counts)) + node.gpu.to_cpu
        if used > node.gpu.nvlinks:
            faults.append(
                f"{key}: with {node.gpu.to_cpu} to the CPU these are {used} NVLinks, "
                f"and gpu.nvlinks says that the GPU has {node.gpu.nvlinks}"
            )
    if not node.gpus:
        faults.append("gpus: there is none")
    return faults


def _wire(node: NodeClass) -> list[str]:
    counts = (("nvlinks", node.gpu.nvlinks), ("to_cpu", node.gpu.to_cpu))
    faults = [f"gpu.{key}: {count} is no number of links" for key, count in counts if count < 0]
    if node.gpu.nvlinks and node.nvlink is None:
        faults.append("nvlink: this key is missing, and gpu.nvlinks says that there are links")
    if node.nvlink and not 0 < node.nvlink.gb_s < math.inf:
        faults.append(f"nvlink.gb_s: {node.nvlink.gb_s:g} is no speed of a link")
    return faults


def _devices(node: NodeClass) -> list[str]:
    faults = []
    buses = [bus_id(device.bus_id) for device in node.gpus if ":" in device.bus_id]
    faults += [f"gpus: bus_id {bus} stands twice" for bus in sorted({b for b in buses if buses.count(b) > 1})]
    for index, device in enumerate(node.gpus):
        cores = cpu_list(device.cores)
        if not 0 <= device.socket < node.cpus.sockets:
            faults.append(f"gpus[{index}].socket: {device.socket} is none of the {node.cpus.sockets} sockets")
        elif cores != tuple(node.cpus.socket_cores(device.socket)):
            whole = format_list(node.cpus.socket_cores(device.socket))
            faults.append(
                f"gpus[{index}].cores: {device.cores} is not socket {device.socket}'s ({whole}): "
                "Slurm calls a node invalid whose GRES cores are no whole sockets"
            )
        if device.bus_id and not re.fullmatch(ADDRESS, device.bus_id, re.IGNORECASE):
            faults.append(f"gpus[{index}].bus_id: '{device.bus_id}' is no PCI address such as 0002:01:00.0")
    counts = (("gpu.memory_mib", node.gpu.memory_mib), ("nics.ports", node.nics.ports))
    faults += [f"{key}: {count} is less than none; 0 is any" for key, count in counts if count < 0]
    if "" in node.gpu.names:
        faults.append("gpu.names: an empty one is no model; [] is any")
    if not re.fullmatch(r"[a-z0-9_]+", node.gpu.gres):
        faults.append(f"gpu.gres: '{node.gpu.gres}' is no type for Slurm: small letters and digits")
    return faults


def _floors(node: NodeClass) -> list[str]:
    faults = []
    gb_s = node.nvlink.gb_s if node.nvlink else 0
    most = {
        "host_to_device": node.gpu.to_cpu * gb_s,
        "peer": max((count for device in node.gpus for count in device.links), default=0) * gb_s,
    }
    for name, limit in most.items():
        floor: Floor = getattr(node.floors, name)
        if not 0 < floor.gb_s < math.inf:
            faults.append(f"floors.{name}.gb_s: {floor.gb_s:g} is no bandwidth that a copy can reach")
        elif 0 < limit < floor.gb_s:
            faults.append(f"floors.{name}.gb_s: {floor.gb_s:g} cannot be: the links carry {limit:g} GB/s")
    return faults
