"""A topology as tables for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from minsky.gpus.compare import Row, summary
from minsky.gpus.model import GPU, Topology, format_list

VERDICTS = {True: ("as expected", "green"), False: ("differs", "red"), None: ("not told", "yellow")}


def tables(topology: Topology) -> list[Table | str]:
    """Return what *topology* tells, the problems last."""
    pairs = {(link.a, link.b): link.count for link in topology.links}
    state = "whole" if topology.complete else "incomplete"
    heading = (
        f"{topology.source}: {len(topology.gpus)} GPUs, NVLinks between them: {summary(pairs)} ({state})"
    )
    if not topology.gpus:
        heading = f"{topology.source}: no GPUs ({state})"
    shown: list[Table | str] = [heading]
    if topology.gpus:
        shown.append(_gpus(topology))
    if topology.nics:
        names = (f"{nic.name} ({nic.device})" if nic.device else nic.name for nic in topology.nics)
        shown.append(f"network adapters: {', '.join(names)}")
    if topology.cpus and topology.cpus.numa:
        shown.append(_cpus(topology))
    if topology.problems:
        shown.append(_problems(topology))
    return shown


def _gpus(topology: Topology) -> Table:
    columns = {
        "GPU": [str(gpu.index) for gpu in topology.gpus],
        "model": [gpu.model or "" for gpu in topology.gpus],
        "memory": [f"{gpu.memory_mib} MiB" if gpu.memory_mib else "" for gpu in topology.gpus],
        "PCI address": [gpu.bus_id or "" for gpu in topology.gpus],
        "socket": ["" if gpu.socket is None else str(gpu.socket) for gpu in topology.gpus],
        "NUMA": [format_list(gpu.numa) for gpu in topology.gpus],
        "CPUs": [format_list(gpu.cpu_affinity) for gpu in topology.gpus],
        "NVLinks": [_nvlinks(gpu) for gpu in topology.gpus],
        "MIG": [", ".join(device["profile"] or "device" for device in gpu.mig) for gpu in topology.gpus],
    }
    names = [gpu.index for gpu in topology.gpus]
    between = {
        f"to {other}": [
            "-"
            if a == other
            else topology.paths.get(f"GPU{min(a, other)}", {}).get(f"GPU{max(a, other)}", "")
            for a in names
        ]
        for other in names
    }
    table = Table()
    told = {name: cells for name, cells in {**columns, **between}.items() if any(set(cells) - {"", "-"})}
    for name in told:
        table.add_column(name)
    for row in range(len(names)):
        table.add_row(*(Text(cells[row]) for cells in told.values()))
    return table


def _nvlinks(gpu: GPU) -> str:
    if gpu.nvlinks is None:
        return ""
    down = [link.link for link in gpu.nvlinks if link.active is False]
    speeds = sorted({link.gb_s for link in gpu.nvlinks if link.gb_s})
    speed = f" x {speeds[0]:g} GB/s" if len(speeds) == 1 else ""
    return f"{len(gpu.nvlinks)}{speed}" + (f", inactive: {format_list(down)}" if down else "")


def _cpus(topology: Topology) -> Table:
    cpus = topology.cpus
    table = Table(title_justify="left")
    if cpus is None:
        return table
    if cpus.sockets:
        threads = f", {cpus.threads} threads each online" if cpus.threads else ""
        table.title = f"{cpus.sockets} sockets of {cpus.cores} cores{threads}"
    for name in ("NUMA node", "CPUs", "memory"):
        table.add_column(name)
    for node in cpus.numa:
        memory = "" if node.memory_mib is None else f"{node.memory_mib} MiB" if node.memory_mib else "offline"
        table.add_row(str(node.node), format_list(node.cpus) or "none: memory alone", memory)
    return table


def _problems(topology: Topology) -> Table:
    table = Table(title="problems", title_justify="left", show_header=False)
    for problem in topology.problems:
        table.add_row(f"line {problem.line}" if problem.line else "", Text(problem.what, "red"))
    return table


def comparison(rows: list[Row], name: str) -> Table:
    """Return *rows* of a comparison with class *name*."""
    table = Table(title=f"compared with class {name}", title_justify="left")
    for column in ("what", "expected", "found", "verdict"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.what, Text(row.expected), Text(row.found), Text(*VERDICTS[row.same]))
    return table
