"""The class of a node that fits none: the closest one, changed to what was recorded."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import yaml

from minsky.errors import MinskyError
from minsky.gpus.classes import CLASSES, NUMBERINGS, Device, Floor, NodeClass, Processors, Wire, load, read
from minsky.gpus.compare import closest, compare, told_links
from minsky.gpus.model import CPUs, Topology, format_list

MOST_LINKS = 18  # that a GPU has, up to H200: who seems to have more has a switch
UNMEASURED = 0.6  # of what the links carry: a floor for which nothing was measured


def propose(found: Topology, name: str) -> str:
    """Return the content of slurm/classes/*name*.yml for a node that shows what was *found*.

    Raises:
        MinskyError: the recording does not tell enough, or not all of it.
    """
    if not found.complete:
        problem = found.problems[0]
        raise MinskyError(
            f"the recording is not whole ({f'line {problem.line}: ' if problem.line else ''}{problem.what}): "
            "a class made from it would be guessed. Record it again"
        )
    if not found.gpus or not told_links(found):
        raise MinskyError(
            "the recording does not tell which GPUs are linked: record nvidia-smi topo -m; --recorded may be "
            "given once for each file of the node (-L adds models, lscpu adds cores)"
        )
    base = closest(found)
    differing = [row for row in compare(found, base) if row.same is False]
    names = sorted({gpu.model for gpu in found.gpus if gpu.model})
    alike = set(names) <= set(base.gpu.names) if names else not differing
    node = _links(found, _places(found, base, alike=not differing), base, alike=alike)
    sizes = {gpu.memory_mib for gpu in found.gpus if gpu.memory_mib}
    if differing and not names:
        node = replace(
            node, gpu=replace(node.gpu, names=[], gres="gpu", memory_mib=0, source="no model recorded")
        )
    elif names:
        model = replace(node.gpu, names=names, memory_mib=sizes.pop() if len(sizes) == 1 else 0)
        node = replace(node, gpu=replace(model, source=f"recorded: {found.source}"))
    if found.nics:
        node = replace(
            node, nics=replace(node.nics, ports=len(found.nics), source=f"recorded: {found.source}")
        )
    node = replace(
        node,
        title=f"{len(found.gpus)} x {' and '.join(names) or 'GPU'}",
        provenance=f"recorded by {found.source}; what that does not tell is as in class {base.name}",
    )
    text = _written(node, base, [f"{row.what}: {row.found}, there {row.expected}" for row in differing])
    read(text, Path(f"{name}.yml"))  # what it says must hold together
    return text


def _written(node: NodeClass, base: NodeClass, differing: list[str]) -> str:
    content = {key: value for key, value in asdict(node).items() if key != "name" and value is not None}
    if not content["cpus"]["gpu_numa"]:
        del content["cpus"]["gpu_numa"]
    content["gpus"] = [{k: v for k, v in device.items() if v != ""} for device in content["gpus"]]
    heading = "\n".join(f"#   {line}" for line in differing) or "#   nothing that was recorded"
    return (
        f"# Closest to class {base.name}, which differs in:\n{heading}\n"
        "# Check title, gres and floors, put your measurements there, and commit it.\n"
        + yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)
    )


def _links(found: Topology, placed: NodeClass, base: NodeClass, *, alike: bool) -> NodeClass:
    """Return *placed* with the links that were *found*, and what follows where *base* has others.

    What *base* says of a GPU's links holds for GPUs *alike*; of others only what was recorded is known.
    """
    size = len(found.gpus)
    position = {gpu.index: place for place, gpu in enumerate(found.gpus)}
    matrix = [[-1 if a == b else 0 for b in range(size)] for a in range(size)]
    for link in found.links:
        a, b = position[link.a], position[link.b]
        matrix[a][b] = matrix[b][a] = link.count
    buses = [gpu.bus_id or "" for gpu in found.gpus]
    devices = [
        replace(device, links=links, bus_id=bus)
        for device, links, bus in zip(placed.gpus, matrix, buses)
    ]  # fmt: skip
    most = max(0, *(count for row in matrix for count in row))
    own = max((len(gpu.nvlinks or []) for gpu in found.gpus), default=0)
    node = replace(placed, gpus=devices)
    if alike and matrix == [device.links for device in base.gpus] and own in (0, base.gpu.nvlinks):
        return node
    plain = load(str(CLASSES / "pcie.yml"))
    if not most:
        gpu = replace(plain.gpu, nvlinks=own)
        return replace(node, gpu=gpu, nvlink=_wire(found) if own else None, floors=plain.floors)
    model = base.gpu if alike else replace(base.gpu, nvlinks=0, to_cpu=0)
    wire = base.nvlink if alike and base.nvlink else _wire(found)
    used = max(sum(count for count in row if count > 0) for row in matrix)
    every = all(count == most for row in matrix for count in row if count >= 0) and size > 2  # noqa: PLR2004
    links = max(own, model.nvlinks)
    switched = wire.switched or (every and used > (links or MOST_LINKS))
    needed = most if switched else used
    to_cpu = model.to_cpu if needed + model.to_cpu <= links else 0
    gpu = replace(model, nvlinks=own or max(needed + to_cpu, model.nvlinks), to_cpu=to_cpu)
    peer = Floor(round(UNMEASURED * most * wire.gb_s, 1), f"60 % of {most} x {wire.gb_s:g}: not measured")
    host = base.floors.host_to_device if alike and to_cpu == base.gpu.to_cpu else plain.floors.host_to_device
    floors = replace(base.floors, peer=peer, host_to_device=host)
    return replace(node, gpu=gpu, nvlink=replace(wire, switched=switched), floors=floors)


def _wire(found: Topology) -> Wire:
    """Return the NVLink that was *found*; its generation is not told."""
    speeds = [link.gb_s for gpu in found.gpus for link in gpu.nvlinks or [] if link.gb_s]
    if speeds:
        return Wire(0, min(speeds), f"recorded: {found.source}")
    return Wire(0, 20, "not recorded: the slowest NVLink there is")


def _places(found: Topology, base: NodeClass, *, alike: bool) -> NodeClass:
    """Return *base* with the processors, and as many GPUs at their sockets, as were *found*."""
    told = [gpu.cpu_affinity for gpu in found.gpus]
    fits = _agrees(base.cpus, found.cpus) and (alike or _fills(base.cpus, told))
    candidates = [base.cpus] if fits else []
    for cpus in [*candidates, *_recorded(found), *_inferred(found)]:
        sockets = [_socket(cpus, affinity) for affinity in told]
        if all(socket is not None for socket in sockets):
            devices = [
                Device(socket or 0, format_list(cpus.socket_cores(socket or 0)), []) for socket in sockets
            ]
            return replace(base, cpus=cpus, gpus=devices)
    raise MinskyError(
        "the recording does not tell which socket each GPU is at: add lscpu's output by another --recorded. "
        "In a virtual machine without NUMA there is nothing to tell"
    )


def _agrees(cpus: Processors, told: CPUs | None) -> bool:
    return told is None or told.sockets is None or (told.sockets, told.cores) == (cpus.sockets, cpus.cores)


def _fills(cpus: Processors, told: list[list[int]]) -> bool:
    """Whether each set of CPUs is all of a socket, and not by chance some of it."""
    sockets = [[*cpus.socket_cores(socket)] for socket in range(cpus.sockets)]
    return all(cpus.core_indexes(affinity) in sockets for affinity in told)


def _socket(cpus: Processors, affinity: list[int]) -> int | None:
    cores = set(cpus.core_indexes(affinity))
    return next((s for s in range(cpus.sockets) if cores and cores <= set(cpus.socket_cores(s))), None)


def _recorded(found: Topology) -> list[Processors]:
    """Return the processors of an lscpu, in every numbering there is."""
    cpus = found.cpus
    if cpus is None or not (cpus.sockets and cpus.cores and cpus.threads):
        return []
    numa = [node.node for node in cpus.numa if node.cpus]
    memory = [node.node for node in cpus.numa if not node.cpus]
    spread = cpus.online[1] - cpus.online[0] if len(cpus.online) > 1 and cpus.threads == 1 else 1
    hardware = max(cpus.threads, spread)  # with SMT off only every 8th CPU is online
    return [
        Processors(
            cpus.sockets, cpus.cores, hardware, [cpus.threads], numbering, numa, "recorded: lscpu", memory
        )
        for numbering in NUMBERINGS
    ]


def _inferred(found: Topology) -> list[Processors]:
    """Return the processors that sets of CPUs near the GPUs can belong to, if each is a socket's."""
    groups = sorted({tuple(gpu.cpu_affinity) for gpu in found.gpus})
    if not all(groups) or len({len(group) for group in groups}) > 1:
        return []
    size, sockets = len(groups[0]), len(groups)
    steps = {after - before for group in groups for before, after in zip(group, group[1:])}
    step = steps.pop() if len(steps) == 1 else 0
    numa = sorted({node for gpu in found.gpus for node in gpu.numa}) or list(range(sockets))
    source = f"inferred from the CPUs near each GPU ({found.source}); compare with slurmd -C"
    shapes = [("block", step, size, 1)] if step else []
    shapes += [("split", 2, size // 2, 2), ("interleaved", 1, size, 1), ("interleaved", 2, size // 2, 2)]
    fitting = []
    for numbering, threads, cores, online in shapes:
        cpus = Processors(sockets, cores, threads, [online], numbering, numa, source)
        if all(
            cpus.core_indexes(list(g)) == [*cpus.socket_cores(_socket(cpus, list(g)) or 0)] for g in groups
        ):
            fitting.append(cpus)
    return fitting
