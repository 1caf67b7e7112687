"""Processors, their NUMA nodes and memory, beside what the class states."""

from __future__ import annotations

import re
from contextlib import suppress

from minsky.gpus import parse
from minsky.gpus.classes import NodeClass
from minsky.gpus.compare import compare
from minsky.gpus.model import Topology, format_list, merge
from minsky.gpus.text import FAILED as DRIVER_FAILED
from minsky.nodecheck.check import SKIPPED, Failure, Finding, check, output, verdict
from minsky.nodecheck.node import CPUS, Node

KIB = re.compile(r"(MemTotal|MemFree|MemAvailable):\s+([0-9]+) kB")


def classed(node: Node) -> str:
    """Say why a check against the class is none of this node's."""
    return "" if node.node_class else "class none states no processors"


def with_gpu_memory(node: Node) -> str:
    """Say why this node has no NUMA nodes that are GPU memory."""
    return "" if node.node_class and node.node_class.cpus.gpu_numa else "no GPU memory in NUMA nodes"


def class_of(node: Node) -> NodeClass:
    """Return the class of a node that has one."""
    if node.node_class is None:
        raise Failure("class none", "state the node's class in the node file")
    return node.node_class


def compared(found: Topology, node: Node, rows: str) -> Finding:
    """Return what the class says of *rows*, a pattern of their names.

    What a node does not tell is no agreement. A recording is judged as far as it tells.
    """
    if not found.complete:
        raise _incomplete(found, node)
    kept = [row for row in compare(found, class_of(node)) if re.fullmatch(rows, row.what)]
    if node.recorded is not None:
        told = [row for row in kept if row.same is not None]
        if kept and not told:
            return Finding(kept[0].expected, f"{found.source} does not tell", SKIPPED)
        kept = told
    wrong = [row for row in kept if not row.same]
    if not kept:
        raise Failure(f"{found.source} tells nothing of {rows.replace('|', ', ')}")
    expected = "; ".join(f"{row.what}: {row.expected}" for row in wrong or kept)
    found_rows = "; ".join(f"{row.what}: {row.found or 'none'}" for row in wrong or kept)
    return verdict(expected, found_rows, good=not wrong)


def _incomplete(found: Topology, node: Node) -> Failure:
    """Return the failure of which the *found* problems tell: the driver's, or the recording's own."""
    problems = found.problems[:3]
    if node.recorded is None:
        return Failure("; ".join(problem.what for problem in problems))
    words = "; ".join(f"{f'line {each.line}: ' if each.line else ''}{each.what}" for each in problems)
    driver = any("does not answer" in each.what or DRIVER_FAILED.search(each.what) for each in problems)
    return Failure(words, "" if driver else "record it again: the text is not whole, or of several nodes")


def _read(node: Node, *command: str) -> Topology:
    return merge(node.told(CPUS)) if node.recorded is not None else parse(output(*command))


@check("compare with lscpu; dead cores or sockets are in the firmware's log", applies=classed, recorded=CPUS)
def processors(node: Node) -> Finding:
    """Sockets and cores as the class states."""
    return compared(_read(node, "lscpu"), node, "sockets x cores")


@check("ppc64_cpu --smt=N (x86: the firmware's hyper-threading), then restart slurmd", applies=classed,
       recorded=CPUS)  # fmt: skip
def smt(node: Node) -> Finding:
    """Threads per core that are online as the class or the node file states."""
    found = _read(node, "lscpu")
    if node.smt and found.cpus and found.cpus.threads:
        return verdict(f"{node.smt}", f"{found.cpus.threads}", good=found.cpus.threads == node.smt)
    return compared(found, node, "threads per core")


@check("compare with numactl -H; memory that is missing is in the firmware's log", applies=classed,
       recorded=CPUS)  # fmt: skip
def numa(node: Node) -> Finding:
    """NUMA nodes with processors as the class states."""
    return compared(_read(node, "lscpu"), node, "NUMA nodes")


@check(
    "start nvidia-persistenced, which brings it online, then slurmd; udev must not do it (the memory rule)",
    applies=with_gpu_memory,
    recorded=CPUS,
)
def gpu_numa(node: Node) -> Finding:
    """Memory of the GPUs online as NUMA nodes (POWER9)."""
    return compared(_read(node, "numactl", "-H"), node, "NUMA nodes of GPU memory")


@check(
    "stop docker, slurmd and what else holds the cgroup, rmdir it, and start them after nvidia-persistenced",
    applies=with_gpu_memory,
)
def cpuset(node: Node) -> Finding:
    """Cgroups made after the GPUs' memory came online, which they otherwise lack (POWER9)."""
    cpus = class_of(node).cpus
    wanted = format_list([*cpus.numa, *cpus.gpu_numa])
    root = node.root / "sys/fs/cgroup"
    files = sorted([*root.glob("cpuset/*/cpuset.mems"), *root.glob("*/cpuset.mems.effective")])
    have = {}
    for file in files:
        with suppress(OSError):  # a group may end meanwhile
            have[file.parent.name] = file.read_text().strip()
    wrong = {group: mems for group, mems in have.items() if mems != wanted}
    if not have:
        raise Failure("no cgroup has a cpuset", "mount cgroups with the controller cpuset")
    found = "; ".join(f"{group}: {mems or 'none'}" for group, mems in (wrong or have).items())
    return verdict(wanted, found, good=not wrong)


@check("see what holds it (ps aux --sort -rss); less in all: a DIMM is dead, see the firmware's log")
def memory(node: Node) -> Finding:
    """Memory there, and enough of it free for the system."""
    told = {name: int(kib) // 1024 for name, kib in KIB.findall(node.read("proc/meminfo"))}
    if not {"MemTotal", "MemAvailable"} <= told.keys():
        raise Failure("/proc/meminfo does not tell")
    gpus = set(node.node_class.cpus.gpu_numa) if node.node_class else set()
    for number in gpus:  # the kernel counts it as the node's
        of_gpu = dict(KIB.findall(node.read(f"sys/devices/system/node/node{number}/meminfo")))
        told["MemTotal"] -= int(of_gpu.get("MemTotal", 0)) // 1024
        told["MemAvailable"] -= int(of_gpu.get("MemFree", 0)) // 1024
    total, free = told["MemTotal"], told["MemAvailable"]
    least = f"{node.memory_mib} MiB, " if node.memory_mib else ""
    return verdict(
        f"{least}{node.memory_free_mib} MiB free at least",
        f"{total} MiB, {free} MiB free",
        good=total >= node.memory_mib and free >= node.memory_free_mib,
    )
