"""What a node shows beside what its class states; the class that an unknown node is closest to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from minsky.errors import MinskyError
from minsky.gpus.classes import SPEED, NodeClass, available, load
from minsky.gpus.model import GPU, NVLink, Topology, format_list

SAME_MEMORY = 0.02  # drivers and ECC take a little; a GPU of another size differs by more


@dataclass(frozen=True)
class Row:
    """One comparison; *same* is None where the recording does not tell."""

    what: str
    expected: str
    found: str
    same: bool | None


def compare(found: Topology, node: NodeClass) -> list[Row]:
    """Return all comparisons of what was *found* with the class of the *node*."""
    rows = [*_gpus(found, node), *_links(found, node), *_own_links(found, node)]
    return [*rows, *_places(found, node), *_cpus(found, node), *_nics(found, node)]


def closest(found: Topology) -> NodeClass:
    """Return the class that *found* is least far from: by links, number and model of GPUs, cores, processors.

    Raises:
        MinskyError: there is no class.
    """
    classes = [load(name) for name in available()]
    if not classes:
        raise MinskyError("there are no node classes: slurm/classes/ holds no *.yml")
    return min(classes, key=lambda node: _distance(found, node))


def _distance(found: Topology, node: NodeClass) -> float:
    """Return how far a class is: what concerns the wiring weighs most, each part from 0 to 1 or 2."""
    rows = compare(found, node)
    have = {(link.a, link.b): link.count for link in found.links}
    wanted = {(link.a, link.b): link.count for link in node.topology().links}
    pairs = have.keys() | wanted.keys()
    most, wanted_most = max(have.values(), default=0), max(wanted.values(), default=0)
    size, wanted_size = len(found.gpus), len(node.gpus)
    wiring = (
        2 * (bool(have) != bool(wanted))
        + abs(most - wanted_most) / max(most, wanted_most, 1)
        + sum(have.get(pair) != wanted.get(pair) for pair in pairs) / max(len(pairs), 1)
    )
    wrong = [row.what for row in rows if row.same is False]
    cores = sum(what.startswith("cores of") for what in wrong) / (2 * max(size, 1))
    others = sum(not what.startswith(("cores of", "links", "GPUs", "network")) for what in wrong) / 2
    # between classes that are equally far: the one of which most is confirmed, and least is left open
    agreement = sum(row.same is True for row in rows) / 100
    untold = sum(row.same is None for row in rows) / 1000
    return (
        wiring * told_links(found)
        + abs(size - wanted_size) / max(size, wanted_size)
        + cores
        + others
        + untold
        - agreement
    )


def told_links(found: Topology) -> bool:
    """Whether *found* tells which GPUs are linked, not only who they are."""
    return bool(found.paths or found.links or (len(found.gpus) == 1 and "topo" in found.source))


def _untold(what: str, expected: str) -> Row:
    return Row(what, expected, "not told", None)


def _gpus(found: Topology, node: NodeClass) -> Iterator[Row]:
    gpus, expected = found.gpus, len(node.gpus)
    if not gpus and found.cpus and not found.problems:
        yield _untold("GPUs", str(expected))
        return
    yield Row("GPUs", str(expected), str(len(gpus)), len(gpus) == expected)
    models = sorted({gpu.model for gpu in gpus if gpu.model})
    if node.gpu.names:
        names = " or ".join(node.gpu.names)
        yield (
            Row("model", names, ", ".join(models), set(models) <= set(node.gpu.names))
            if models
            else _untold("model", names)
        )
    sizes = sorted({gpu.memory_mib for gpu in gpus if gpu.memory_mib})
    if node.gpu.memory_mib:
        wanted = node.gpu.memory_mib
        same = all(abs(size - wanted) <= SAME_MEMORY * wanted for size in sizes) if sizes else None
        yield Row(
            "memory of each", f"{wanted} MiB", ", ".join(f"{size} MiB" for size in sizes) or "not told", same
        )
    buses = [gpu.bus_id for gpu in gpus if gpu.bus_id]
    wanted_buses = [gpu.bus_id for gpu in node.topology().gpus if gpu.bus_id]
    if wanted_buses:
        same = buses == wanted_buses if buses else None
        yield Row("PCI addresses", " ".join(wanted_buses), " ".join(buses) or "not told", same)


def _links(found: Topology, node: NodeClass) -> Iterator[Row]:
    expected = {(link.a, link.b): link.count for link in node.topology().links}
    if not told_links(found):
        yield _untold("links between GPUs", summary(expected))
        return
    have = {(link.a, link.b): link.count if link.active is None else link.active for link in found.links}
    if have == expected:
        yield Row("links between GPUs", summary(expected), summary(have), same=True)
        return
    for a, b in sorted(expected.keys() | have.keys()):
        wanted, got = expected.get((a, b), 0), have.get((a, b), 0)
        if wanted != got:
            yield Row(f"links GPU {a} to GPU {b}", str(wanted), str(got), same=False)


def summary(links: dict[tuple[int, int], int]) -> str:
    """Return *links* by pair in words: `2 links: 0-1, 2-3`."""
    if not links:
        return "none"
    counts = sorted(set(links.values()))
    gpus = {gpu for pair in links for gpu in pair}
    if len(counts) == 1 and len(gpus) > 3 and len(links) == len(gpus) * (len(gpus) - 1) // 2:  # noqa: PLR2004
        return f"{counts[0]} links: every pair"
    parts = (
        f"{count} link{'s' if count > 1 else ''}: "
        + ", ".join(f"{a}-{b}" for (a, b), each in sorted(links.items()) if each == count)
        for count in counts
    )
    return "; ".join(parts)


def _own_links(found: Topology, node: NodeClass) -> Iterator[Row]:
    told = {gpu.index: gpu.nvlinks for gpu in found.gpus if gpu.nvlinks is not None}
    wanted = f"{node.gpu.nvlinks} active"
    if not told:
        yield _untold("NVLinks of each GPU", wanted)
        return
    same = {index: _as_wanted(links, node.gpu.nvlinks) for index, links in told.items()}
    states = {index: _state(links) for index, links in told.items()}
    if len({*same.values()}) == len({*states.values()}) == 1 and False not in same.values():
        yield Row("NVLinks of each GPU", wanted, next(iter(states.values())), next(iter(same.values())))
    else:
        for index, state in states.items():
            yield Row(f"NVLinks of GPU {index}", wanted, state, same[index])
    if node.nvlink:
        speeds = [link.gb_s for links in told.values() for link in links if link.active is not False]
        slowest = min(filter(None, speeds), default=None)
        slow = slowest is not None and slowest < SPEED * node.nvlink.gb_s
        of_all = bool(speeds) and None not in speeds
        least = "not told" if slowest is None else f"{slowest:g} GB/s at least"
        verdict = False if slow else of_all or None
        yield Row("speed of each link", f"{node.nvlink.gb_s:g} GB/s", least, verdict)


def _as_wanted(links: list[NVLink], wanted: int) -> bool | None:
    """Whether there are as many *links* as *wanted* and all are active; None where that is not told."""
    active = [link.active for link in links]
    if wanted == 0:  # a GPU in a PCIe slot may have links that lead nowhere
        return None if None in active else True not in active
    return len(links) == wanted and (None if None in active else all(active))


def _state(links: list[NVLink]) -> str:
    active = [link.active for link in links]
    if None in active:
        return f"{len(links)}, state not told"
    return f"{len(links)} active" if all(active) else f"{active.count(True)} of {len(links)} active"


def near(gpu: GPU, node: NodeClass) -> str:
    """Return the core indexes that a GPU's CPUs are, as a list."""
    return format_list(node.cpus.core_indexes(gpu.cpu_affinity))


def _places(found: Topology, node: NodeClass) -> Iterator[Row]:
    told = [gpu for gpu in found.gpus if gpu.cpu_affinity and gpu.index < len(node.gpus)]
    if not told:
        yield _untold("cores of each GPU", "; ".join(sorted({device.cores for device in node.gpus})))
    wrong: list[Row] = []
    for gpu in told:
        device = node.gpus[gpu.index]
        cores = set(node.cpus.core_indexes(gpu.cpu_affinity))
        if not cores <= set(node.cpus.socket_cores(device.socket)):
            wrong.append(Row(f"cores of GPU {gpu.index}", device.cores, near(gpu, node), same=False))
    if told and not wrong:
        found_cores = "; ".join(f"{gpu.index}: {near(gpu, node)}" for gpu in told)
        yield Row("cores of each GPU", "within its socket", found_cores, same=True)
    yield from wrong


def _cpus(found: Topology, node: NodeClass) -> Iterator[Row]:
    cpus, wanted = found.cpus, node.cpus
    shape = f"{wanted.sockets} x {wanted.cores}"
    if cpus is None or cpus.sockets is None:
        yield _untold("sockets x cores", shape)
    else:
        same = (cpus.sockets, cpus.cores) == (wanted.sockets, wanted.cores)
        yield Row("sockets x cores", shape, f"{cpus.sockets} x {cpus.cores}", same)
        allowed = " or ".join(map(str, wanted.smt))
        yield Row("threads per core", allowed, str(cpus.threads), cpus.threads in wanted.smt)
    if cpus is None or not cpus.numa:
        yield _untold("NUMA nodes", format_list(wanted.numa))
        return
    nodes = sorted(each.node for each in cpus.numa if each.cpus)
    yield Row("NUMA nodes", format_list(wanted.numa), format_list(nodes), nodes == sorted(wanted.numa))
    memory = sorted(each.node for each in cpus.numa if not each.cpus)
    offline = [each.node for each in cpus.numa if not each.cpus and each.memory_mib == 0]
    if wanted.gpu_numa or memory:
        state = f", offline: {format_list(offline)}" if offline else ""
        same = memory == sorted(wanted.gpu_numa) and not offline
        yield Row("NUMA nodes of GPU memory", format_list(wanted.gpu_numa), format_list(memory) + state, same)


def _nics(found: Topology, node: NodeClass) -> Iterator[Row]:
    if node.nics.ports and found.paths:
        count = len(found.nics)
        yield Row("network ports", f"{node.nics.ports} at least", str(count), count >= node.nics.ports)
