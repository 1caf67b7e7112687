"""Bandwidths beside the class's floors, GB/s (1e9 bytes) in one direction; nobody else may use the GPUs."""

from __future__ import annotations

import os
from itertools import permutations

from minsky.gpus.classes import Floor
from minsky.gpus.model import bus_id, cpu_list
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING, Finding, check
from minsky.nodecheck.checks.gpus import gpus_of
from minsky.nodecheck.checks.processors import class_of
from minsky.nodecheck.cuda import Cuda, Device
from minsky.nodecheck.node import Node

SECONDS = 60.0  # of which a driver without persistence may take 10 for eight GPUs


def copying(node: Node) -> str:
    """Say why this node's GPUs copy nothing."""
    return gpus_of(node) or ("simulated GPUs copy nothing" if node.simulated else "")


def _expected(floor: Floor) -> str:
    return f"{floor.gb_s:g} GB/s at least ({floor.source})"


@check("less than half: a link is down (nvidia-smi nvlink --status, -q -d PCIE), or the memory far away",
       applies=copying, seconds=SECONDS, measures=True)  # fmt: skip
def host_to_device(node: Node) -> Finding:
    """Copies from pinned memory near each GPU reach the class's floor."""
    floor, cuda = class_of(node).floors.host_to_device, Cuda()
    allowed = os.sched_getaffinity(0)
    rates: dict[int, float] = {}
    far: dict[int, float] = {}
    for gpu in cuda.devices:
        near = _near(node, gpu)
        os.sched_setaffinity(0, allowed & near or allowed)
        (far if near and not allowed & near else rates)[gpu.number] = cuda.host_to_device(gpu)
    words = [f"GPU {number}: {rate:.1f}" for number, rate in rates.items()]
    words += [f"GPU {number}: {rate:.1f} from the far socket" for number, rate in far.items()]
    found = f"{'; '.join(words) or 'no GPU'} GB/s"
    if not words or any(rate < floor.gb_s for rate in rates.values()):
        return Finding(_expected(floor), found, FAILED)
    return Finding(
        _expected(floor),
        found,
        WARNING if far else OK,
        "let it use cores of each GPU's socket" if far else "",
    )


def _near(node: Node, gpu: Device) -> set[int]:
    """Return the CPUs of the GPU's socket; none where the kernel does not tell."""
    address = gpu.bus_id[4:].lower()  # whose domain has four digits there
    return set(cpu_list(node.read(f"sys/bus/pci/devices/{address}/local_cpulist")) or ())


@check("a link may be down (nvidia-smi nvlink --status), or peer access shut off (an IOMMU, ACS of PCIe)",
       applies=copying, seconds=SECONDS, measures=True)  # fmt: skip
def peer(node: Node) -> Finding:
    """Copies between GPUs that are wired together (without NVLink: any two) reach the class's floor."""
    floor, cuda = class_of(node).floors.peer, Cuda()
    places = _places(node, cuda.devices)
    if not places:
        return Finding(
            _expected(floor),
            f"{len(cuda.devices)} of {len(class_of(node).gpus)} GPUs are seen, and their places not told",
            SKIPPED,
        )
    linked = {(link.a, link.b) for link in class_of(node).topology().links}
    slow, words = False, []
    for source, target in permutations(cuda.devices, 2):
        pair = sorted((places[source.bus_id], places[target.bus_id]))
        if linked and tuple(pair) not in linked:
            continue
        rate, direct = cuda.peer(source, target)
        slow |= rate < floor.gb_s
        by = "" if direct else " through the host"
        words.append(f"{places[source.bus_id]}-{places[target.bus_id]}: {rate:.1f}{by}")
    if not words:
        return Finding(_expected(floor), "no two GPUs that are wired together are seen", SKIPPED)
    return Finding(_expected(floor), f"{'; '.join(words)} GB/s", FAILED if slow else OK)


def _places(node: Node, devices: list[Device]) -> dict[str, int]:
    """Return which GPU of the class each of *devices* is, by address; none where that cannot be told.

    In a job CUDA numbers those that the job holds from 0.
    """
    stated = [bus_id(gpu.bus_id) if gpu.bus_id else "" for gpu in class_of(node).gpus]
    if all(gpu.bus_id in stated for gpu in devices):
        return {gpu.bus_id: stated.index(gpu.bus_id) for gpu in devices}
    return {gpu.bus_id: gpu.number for gpu in devices} if len(devices) == len(stated) else {}
