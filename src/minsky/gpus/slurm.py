"""Slurm's lines for nodes of a class: gres.conf's and the NodeName of slurm.conf."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ClusterShell.NodeSet import NodeSet, NodeSetException

from minsky.errors import MinskyError
from minsky.gpus.classes import NodeClass

WRITTEN = re.compile(r"[A-Za-z0-9.,\[\]-]+")  # ClusterShell has operators and groups as well
MOST_NODES = 65536  # that Slurm can have
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def node_names(text: str) -> str:
    """Return names such as `m[01-16]` folded as Slurm writes them.

    Raises:
        MinskyError: they are no names of hosts, or a name stands twice.
    """
    if not WRITTEN.fullmatch(text):
        raise MinskyError(f"--nodes '{text}' is no list of host names; write them as m[01-16] or m01,m02")
    if _size(text) > MOST_NODES:
        raise MinskyError(f"--nodes {text[:60]}: these are more than the {MOST_NODES} of Slurm")
    try:
        parts = [NodeSet(part) for part in re.split(r",(?![^\[]*\])", text)]
    except NodeSetException as error:
        raise MinskyError(f"--nodes {text}: {error}; write them as m[01-16] or m01,m02") from error
    together = NodeSet()
    for part in parts:
        if together & part:
            raise MinskyError(f"--nodes {text}: {together & part} stands twice; name each node once")
        together |= part
    wrong = next((name for name in together if not NAME.fullmatch(name)), None)
    if wrong or not together:
        raise MinskyError(f"--nodes {text}: '{wrong or ''}' is no name of a host; write m[01-16] or m01,m02")
    return hostlist(together)


def hostlist(names: Iterable[str]) -> str:
    """Fold names into Slurm's notation, in natural order: n8 n9 n10 login -> login,n[8-10].

    Slurm takes a range at the end of a name only: r1n1 r1n2 -> r1n[1-2], and 1a 2a stay as they are.
    """
    numbered, others = NodeSet(), set()
    numbered.fold_axis = (-1,)
    for name in names:
        if name[-1].isdigit():
            numbered.add(name)
        else:
            others.add(name)
    return ",".join(filter(None, [*sorted(others), str(numbered)]))


def _size(text: str) -> int:
    """Return how many names *text* is at most, without writing them out."""
    size = 1
    for ranges in re.findall(r"\[([^\]]*)\]", text):
        ends = [[int(end[:9]) for end in each.split("-", 1) if end.isdecimal()] for each in ranges.split(",")]
        size *= sum(max(end) - min(end) + 1 for end in ends if end)
    return size


def gres(node: NodeClass, nodes: str, threads: int) -> list[str]:
    """Return the lines of gres.conf for *nodes*; the same whatever SMT (*threads* per core) is set to.

    What AutoDetect=nvml finds on such a node: it counts links from GPU to GPU and none to a switch.
    """
    check_smt(node, threads)
    kind = f" Type={node.gpu.gres}" if node.gpu.names else ""
    switched = node.nvlink is not None and node.nvlink.switched
    return [
        f"NodeName={nodes} Name=gpu{kind} File=/dev/nvidia{index} Cores={device.cores} Links="
        + ",".join(str(min(count, 0) if switched else count) for count in device.links)
        for index, device in enumerate(node.gpus)
    ]


def node_line(node: NodeClass, nodes: str, threads: int) -> str:
    """Return the NodeName line of slurm.conf, but for memory, which sites differ in."""
    check_smt(node, threads)
    kind = f"{node.gpu.gres}:" if node.gpu.names else ""
    return (
        f"NodeName={nodes} Sockets={node.cpus.sockets} CoresPerSocket={node.cpus.cores} "
        f"ThreadsPerCore={threads} Gres=gpu:{kind}{len(node.gpus)}"
    )


def check_smt(node: NodeClass, threads: int) -> None:
    """Refuse *threads* per core that nodes of the class do not have."""
    if threads not in node.cpus.smt:
        allowed = ", ".join(map(str, node.cpus.smt))
        raise MinskyError(f"class {node.name} has no {threads} threads per core: --smt is one of {allowed}")


def fragments(node: NodeClass, nodes: str, threads: int | None = None) -> str:
    """Return what to put into gres.conf and slurm.conf, with comments that say so."""
    names, online = node_names(nodes), node.cpus.smt[-1] if threads is None else threads
    notes = []
    if node.nvlink and node.nvlink.switched:
        notes.append("# NVSwitch wires every pair alike: Links is 0, as AutoDetect=nvml has it.")
    memory = "# RealMemory is missing here: take what slurmd -C prints on a node"
    if node.cpus.gpu_numa:
        memory += f", less the GPUs' memory (count NUMA nodes {','.join(map(str, node.cpus.numa))} only)"
    return "\n".join(
        [
            f"# gres.conf, class {node.name}: {node.title}",
            *notes,
            *gres(node, names, online),
            "",
            f"# slurm.conf, class {node.name}",
            memory + ".",
            "GresTypes=gpu",
            node_line(node, names, online),
        ]
    )
