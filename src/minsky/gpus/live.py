"""What the node itself says: NVML first, which has no text to misread, else nvidia-smi."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minsky.errors import MinskyError
from minsky.gpus import parse
from minsky.gpus.model import GPU, NIC, Link, NVLink, RefusedError, Topology, bus_id, merge

SECONDS = 30  # for nvidia-smi: more means a driver that hangs
COMMANDS = (
    ["nvidia-smi", "topo", "-m"],
    ["nvidia-smi", "--query-gpu=index,name,uuid,pci.bus_id,memory.total", "--format=csv"],
    ["nvidia-smi", "nvlink", "--status"],
)
LEVELS = {0: "PSB", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}  # nvmlGpuTopologyLevel_t
REMOTES = {1: "cpu", 2: "switch"}  # nvmlIntNvLinkDeviceType_t
MASK_WORDS = 64  # of 64 bits: CPUs or NUMA nodes that a mask has place for


def live() -> Topology:
    """Return this node's topology, with its processors where lscpu is there.

    Raises:
        MinskyError: neither NVML nor nvidia-smi is there, or nvidia-smi hangs.
    """
    found = _nvml() or _nvidia_smi()
    try:
        cpus = parse(_output(["lscpu"]))
    except MinskyError:
        return found
    if cpus.complete:
        found.cpus = cpus.cpus
    return found


def _nvml() -> Topology | None:
    try:
        import pynvml  # noqa: PLC0415 - may be absent on a node

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - whatever it is, nvidia-smi says it in words
        return None
    try:
        return read_nvml(pynvml)
    except pynvml.NVMLError:  # not of one GPU, but of all
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=SECONDS, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise MinskyError(
            f"{command[0]} cannot be run ({error.strerror}), and NVML (libnvidia-ml.so by nvidia-ml-py) does "
            "not answer, so nothing tells of this machine's GPUs: install the driver, or read a recording "
            "with --recorded FILE"
        ) from error
    except subprocess.TimeoutExpired:
        raise MinskyError(
            f"{' '.join(command)} did not end within {SECONDS} s: the driver hangs, see dmesg for Xid errors"
        ) from None
    return done.stdout.decode(errors="replace")


def _nvidia_smi() -> Topology:
    parts: list[Topology] = []
    for command in COMMANDS:
        text = _output(command)
        if command is COMMANDS[-1] and not text.strip():
            continue  # GPUs without NVLink have no status
        try:
            parts.append(parse(text))
        except RefusedError as error:
            said = next((line.strip() for line in text.split("\n") if line.strip()), "nothing")
            raise MinskyError(f"{' '.join(command)} says {said[:80]}: {error}") from error
        if parts[-1].source == "nvidia-smi":
            break  # the driver is dead, and says so to every command
    return merge(parts)


def read_nvml(nvml: Any) -> Topology:
    """Return what *nvml*, the module pynvml after nvmlInit, tells of all GPUs."""
    topology = Topology("NVML")
    handles: dict[int, Any] = {}
    count = nvml.nvmlDeviceGetCount()
    if not count:
        topology.problem(None, "No devices were found")  # as nvidia-smi has it
    for index in range(count):
        with _told(nvml, topology, index):
            handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
            topology.gpus.append(_gpu(nvml, index, handles[index]))
    topology.nics = [NIC(path.name) for path in sorted(Path("/sys/class/infiniband").glob("*"))]
    by_bus = {gpu.bus_id: gpu.index for gpu in topology.gpus}
    for gpu in topology.gpus:
        with _told(nvml, topology, gpu.index):
            gpu.nvlinks = _nvlinks(nvml, handles[gpu.index], by_bus)
    for position, gpu in enumerate(topology.gpus):
        with _told(nvml, topology, gpu.index):
            for other in topology.gpus[position + 1 :]:
                _pair(nvml, topology, (gpu, other), handles)
    return topology


@contextmanager
def _told(nvml: Any, topology: Topology, index: int) -> Iterator[None]:
    """Note that a GPU does not answer: each may fail for itself, and at any question."""
    try:
        yield
    except nvml.NVMLError as error:
        topology.problem(None, f"GPU {index} does not answer: {error}")


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """Return what NVML's function *name* answers; None where driver or GPU do not have it."""
    missing = tuple(
        getattr(nvml, f"NVMLError_{kind}")
        for kind in ("NotSupported", "FunctionNotFound", "InvalidArgument", "NotFound")
    )
    try:
        return getattr(nvml, name)(*arguments)
    except (*missing, AttributeError):
        return None


def _text(told: Any) -> str:
    return told.decode(errors="replace") if isinstance(told, bytes) else str(told)  # bytes in older versions


def _bits(words: Any) -> list[int]:
    return [
        64 * place + bit for place, word in enumerate(words or ()) for bit in range(64) if word >> bit & 1
    ]


def _gpu(nvml: Any, index: int, handle: Any) -> GPU:
    gpu = GPU(index, model=_text(nvml.nvmlDeviceGetName(handle)), uuid=_text(nvml.nvmlDeviceGetUUID(handle)))
    gpu.bus_id = bus_id(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
    gpu.memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20
    gpu.cpu_affinity = _bits(_ask(nvml, "nvmlDeviceGetCpuAffinity", handle, MASK_WORDS))
    gpu.numa = _bits(_ask(nvml, "nvmlDeviceGetMemoryAffinity", handle, MASK_WORDS, 0))
    gpu.numa_id = _ask(nvml, "nvmlDeviceGetNumaNodeId", handle)
    gpu.socket = _socket(gpu.cpu_affinity)
    for number in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        device = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        if device is not None:
            gpu.mig.append({"profile": None, "uuid": _text(nvml.nvmlDeviceGetUUID(device))})
    return gpu


def _socket(cpus: list[int], sysfs: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Return the number of the socket that all *cpus* are of, counted from 0 as Slurm does."""
    try:
        packages = {
            int(file.parts[-3].removeprefix("cpu")): int(file.read_text())
            for file in sysfs.glob("cpu[0-9]*/topology/physical_package_id")
        }
    except (OSError, ValueError):
        return None
    order = sorted(set(packages.values()))
    near = {packages[cpu] for cpu in cpus if cpu in packages}
    return order.index(near.pop()) if len(near) == 1 else None


def _nvlinks(nvml: Any, handle: Any, by_bus: dict[str | None, int]) -> list[NVLink]:
    links = []
    for number in range(nvml.NVML_NVLINK_MAX_LINKS):
        state = _ask(nvml, "nvmlDeviceGetNvLinkState", handle, number)
        if state is None:
            break
        remote = _ask(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", handle, number)
        peer = by_bus.get(bus_id(_text(remote.busId))) if remote else None
        kind = REMOTES.get(_ask(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, number))
        speed = _ask(nvml, "nvmlDeviceGetFieldValues", handle, [nvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON])
        mb_s = speed[0].value.uiVal if speed and speed[0].nvmlReturn == 0 else 0
        to = f"GPU{peer}" if peer is not None else kind
        links.append(NVLink(number, mb_s / 1000 or None, bool(state), to))
    return links


def _pair(nvml: Any, topology: Topology, pair: tuple[GPU, GPU], handles: dict[int, Any]) -> None:
    a, b = pair
    there = [link for link in a.nvlinks or [] if link.remote == f"GPU{b.index}"]
    back = [link for link in b.nvlinks or [] if link.remote == f"GPU{a.index}"]
    if len(there) != len(back):
        topology.problem(
            None, f"GPU {a.index} has {len(there)} links to GPU {b.index}, which has {len(back)} to it"
        )
        return
    switched = [sum(link.remote == "switch" for link in gpu.nvlinks or []) for gpu in pair]
    if there:
        link = Link(a.index, b.index, len(there), sum(bool(each.active) for each in there))
    elif all(switched):
        up = [
            sum(link.remote == "switch" and bool(link.active) for link in gpu.nvlinks or []) for gpu in pair
        ]
        link = Link(a.index, b.index, min(switched), min(up))
    else:
        level = _ask(nvml, "nvmlDeviceGetTopologyCommonAncestor", handles[a.index], handles[b.index])
        if level in LEVELS:
            topology.paths.setdefault(f"GPU{a.index}", {})[f"GPU{b.index}"] = LEVELS[level]
        return
    topology.links.append(link)
    topology.paths.setdefault(f"GPU{a.index}", {})[f"GPU{b.index}"] = f"NV{link.active}"
