"""The hardware of a virtual node that poses as a node class: stand-ins that answer as such a node's tools do.

All of it is simulated, and says so where a field is free for it: UUIDs, the driver's version, the matrix's
legend, the processor's name. What no class states is what most such nodes have. minsky.gpus reads the class
back from it.
"""

import re
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from minsky.errors import MinskyError
from minsky.gpus.classes import NodeClass, Processors
from minsky.gpus.model import format_list

NONE = "none"  # no fault
# Each with the check of nodecheck that must find it; where every call fails, the first that does.
FAULTS = {"nvlink-down": "nvlinks", "gpu-lost": "driver", "driver-dead": "driver", "ecc": "ecc"}
MAJOR, DRIVER = 195, 255  # numbers of NVIDIA's devices; the minor one is that of the driver's own, nvidiactl
UUID = "GPU-simulated-0000-0000-0000-00000000000"
# What a node that poses has, by path from its root.
FILES = [
    "usr/local/bin/nvidia-smi", "usr/local/bin/lscpu", "usr/local/bin/numactl",
    "etc/systemd/system/simulated-gpus.service", "etc/minsky/simulated",
]  # fmt: skip
PROGRAM = Path(__file__).with_name("nvidia-smi.sh")
NODE_MIB = 262144  # per NUMA node, as on a recorded Minsky; Slurm is told what virtual nodes really have
SPEEDS = {1.0: "19.531", 2.0: "25.781", 4.0: "26.562"}  # GB/s by generation, as drivers word them


class Kind(NamedTuple):
    """What drivers tell of a kind of GPU and no class states: clocks in MHz, W, capability, versions."""

    memory: int
    graphics: int
    watts: int
    capability: str
    driver: str
    cuda: str


# Drivers: 470 is what a Minsky was last recorded with, and 535 has H100. Clocks: NVIDIA's data sheets.
KINDS = {
    "P100": Kind(715, 1328, 300, "6.0", "470.161.03", "11.4"),
    "V100": Kind(877, 1530, 300, "7.0", "470.161.03", "11.4"),
    "A100": Kind(1215, 1410, 400, "8.0", "470.161.03", "11.4"),
    "H100": Kind(2619, 1980, 700, "9.0", "535.183.01", "12.2"),
    "H200": Kind(3201, 1980, 700, "9.0", "550.90.07", "12.4"),
}


def tree(node: NodeClass, fault: str = NONE, devices: str = "/dev") -> dict[str, str]:
    """Return the FILES that let a virtual node pose as a class, by path.

    Args:
        node: the class.
        fault: one of FAULTS, or NONE.
        devices: where the GPUs' devices are; one that may not be opened is not listed, as in a job.

    Raises:
        MinskyError: the class has nothing that the fault could befall.
    """
    if fault == "nvlink-down" and not node.gpu.nvlinks:
        raise MinskyError(
            f"class {node.name} has no NVLinks, so none can be down: take another fault, or a class that has"
        )
    gpus = len(node.gpus)
    return {
        "usr/local/bin/nvidia-smi": _nvidia_smi(node, fault, devices),
        "usr/local/bin/lscpu": _replays("lscpu", node, {"": lscpu(node.cpus, node.name)}),
        "usr/local/bin/numactl": _replays(
            "numactl", node, dict.fromkeys(("-H", "--hardware"), numactl(node.cpus, _memory_mib(node)))
        ),
        "etc/systemd/system/simulated-gpus.service": _unit(gpus),
        "etc/minsky/simulated": f"This node poses as class {node.name}: {gpus} GPUs, their links, "
        "processors and NUMA nodes are simulated.\n",
    }


def write(directory: Path, node: NodeClass, fault: str = NONE) -> None:
    """Write the tree below *directory*, the programs executable."""
    for path, text in tree(node, fault).items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755 if file.parent.name == "bin" else 0o644)


def lscpu(cpus: Processors, name: str = "another") -> str:
    """Return what lscpu says of such processors, with the most threads online that the class allows."""
    near = {node: _online(cpus, _cores(cpus, place)) for place, node in enumerate(cpus.numa)}
    nodes = near | {node: [] for node in cpus.gpu_numa}
    online = [cpu for numbers in near.values() for cpu in numbers]
    lines = {
        "CPU(s)": len(online),
        "On-line CPU(s) list": format_list(online),
        "Model name": f"simulated, class {name}",
        "Thread(s) per core": cpus.smt[-1],
        "Core(s) per socket": cpus.cores,
        "Socket(s)": cpus.sockets,
        "NUMA node(s)": len(nodes),
        **{f"NUMA node{node} CPU(s)": format_list(numbers) for node, numbers in nodes.items()},
    }
    return "".join(f"{key + ':':<22} {value}\n" for key, value in lines.items())


def numactl(cpus: Processors, gpu_mib: int) -> str:
    """Return what numactl -H says; nodes that are a GPU's memory have *gpu_mib* MiB each."""
    nodes = [*cpus.numa, *cpus.gpu_numa]
    lines = [f"available: {len(nodes)} nodes ({format_list(nodes)})"]
    for place, node in enumerate(nodes):
        with_cpus = node in cpus.numa
        listed = _online(cpus, _cores(cpus, place)) if with_cpus else []
        size = NODE_MIB if with_cpus else gpu_mib
        lines.append(f"node {node} cpus:{''.join(f' {cpu}' for cpu in listed)}")
        lines += [f"node {node} {word}: {size} MB" for word in ("size", "free")]
    lines += ["node distances:", "node " + " ".join(f"{node:3}" for node in nodes)]
    for node in nodes:
        row = (10 if node == other else 80 if {node, other} & {*cpus.gpu_numa} else 40 for other in nodes)
        lines.append(f"{node:3}: " + " ".join(f"{distance:3}" for distance in row))
    return "\n".join(lines) + "\n"


def _cores(cpus: Processors, place: int) -> range:
    """Return the cores of the NUMA node at a *place* among those with CPUs, which share them evenly."""
    total, nodes = cpus.sockets * cpus.cores, len(cpus.numa)
    return range(place * total // nodes, (place + 1) * total // nodes)


def _online(cpus: Processors, cores: range) -> list[int]:
    """Return the logical CPUs that are online on *cores*."""
    total = cpus.sockets * cpus.cores

    def thread(cpu: int) -> int:
        return cpu % cpus.threads if cpus.numbering == "block" else cpu // total

    return [
        cpu
        for cpu in range(total * cpus.threads)
        if cpus.core_indexes([cpu])[0] in cores and thread(cpu) < cpus.smt[-1]
    ]


def _model(node: NodeClass) -> str:
    return node.gpu.names[0] if node.gpu.names else "Simulated GPU"


def _memory_mib(node: NodeClass) -> int:
    """Return what the class states, or else its model's name, or else 16 GiB."""
    size = re.search(r"([0-9]+)GB", _model(node))
    return node.gpu.memory_mib or 1024 * int(size[1] if size else 16)


def _faulty(node: NodeClass) -> int:
    return len(node.gpus) // 2


def _replays(program: str, node: NodeClass, texts: dict[str, str]) -> str:
    """Return a program that prints the text of its arguments, and to any others says that it is simulated."""
    cases = "".join(f"{quote(arguments)}) printf %s {quote(text)} ;;\n" for arguments, text in texts.items())
    known = " or ".join(filter(None, texts)) or "no arguments"
    sentence = f"{program} is simulated here (class {node.name}) and has no answer to that; it knows {known}"
    return f"{_shebang(program, node)}case $* in\n{cases}*) echo {quote(sentence)} >&2; exit 6 ;;\nesac\n"


def _shebang(program: str, node: NodeClass) -> str:
    return f"#!/bin/sh\n# Simulated: stands in for {program} on a node that poses as class {node.name}.\n"


def _unit(gpus: int) -> str:
    """Return the unit that makes the devices at each boot, as /dev is empty then."""
    devices = {f"nvidia{number}": number for number in range(gpus)} | {"nvidiactl": DRIVER}
    made = "".join(
        f"ExecStart=mknod -m 0666 /dev/{name} c {MAJOR} {minor}\n" for name, minor in devices.items()
    )
    remove = "/bin/sh -c 'rm -f /dev/nvidia*'\n"
    return (
        "[Unit]\nDescription=Devices of simulated GPUs\nBefore=slurmd.service\n\n[Service]\nType=oneshot\n"
        f"RemainAfterExit=yes\nExecStartPre={remove}{made}ExecStop={remove}\n[Install]\n"
        "WantedBy=multi-user.target\n"
    )


def _nvidia_smi(node: NodeClass, fault: str, devices: str) -> str:
    kind = next((each for word, each in KINDS.items() if word in _model(node)), KINDS["P100"])
    head = {
        "class": node.name,
        "driver": kind.driver,
        "cuda": kind.cuda,
        "devices": devices,
        "gpus": " ".join(str(gpu) for gpu in range(len(node.gpus))),
        "nics": " ".join(f"mlx5_{port}" for port in range(node.nics.ports)),
        "lost": str(_faulty(node)) if fault == "gpu-lost" else "",
        "dead": "yes" if fault == "driver-dead" else "",
    }
    return (
        _shebang("nvidia-smi", node)
        + "".join(f"{name}={quote(value)}\n" for name, value in head.items())
        + _tell(_fields(node, kind, fault))
        + _wiring(node, fault)
        + PROGRAM.read_text()
    )


def _fields(node: NodeClass, kind: Kind, fault: str) -> dict[str, tuple[str, list[str]]]:
    """Return what `--query-gpu` knows: of each field, all its names, the unit and the value of each GPU."""
    indexes = range(len(node.gpus))
    memory = _memory_mib(node)
    buses = [
        gpu.bus_id or f"00000000:{0x10 + 8 * index:02X}:00.0"
        for index, gpu in enumerate(node.topology().gpus)
    ]
    errors = ["3" if fault == "ecc" and index == _faulty(node) else "0" for index in indexes]
    reasons = "clocks_throttle_reasons.active"
    if kind.driver >= "535":
        reasons += "|clocks_event_reasons.active"  # its new name
    same: dict[str, tuple[str, object]] = {
        "name|gpu_name": ("", _model(node)),
        "driver_version": ("", f"{kind.driver} (simulated)"),
        "count": ("", len(node.gpus)),
        "compute_cap": ("", kind.capability),
        "memory.total": ("MiB", memory),
        "memory.free": ("MiB", memory),
        "memory.used": ("MiB", 0),
        "utilization.gpu": ("%", 0),
        "utilization.memory": ("%", 0),
        "temperature.gpu": ("", 33),
        "power.draw": ("W", "31.20"),
        "power.limit": ("W", f"{kind.watts}.00"),
        "pstate": ("", "P0"),
        "fan.speed": ("", "[N/A]"),
        "mig.mode.current": ("", "[N/A]"),
        "serial|gpu_serial": ("", "[N/A]"),
        "persistence_mode": ("", "Enabled"),
        "compute_mode": ("", "Default"),
        "display_active": ("", "Disabled"),
        "ecc.mode.current": ("", "Enabled"),
        "ecc.errors.corrected.volatile.total": ("", 0),
        "retired_pages.pending": ("", "No"),
        reasons: ("", "0x0000000000000001"),
        "clocks.applications.memory": ("MHz", kind.memory),
        "clocks.applications.graphics": ("MHz", kind.graphics),
        "pcie.link.width.current": ("", 16),
        "pcie.link.width.max": ("", 16),
        # of processes, of which there are none
        "pid|process_name": ("", ""),
        "used_memory|used_gpu_memory": ("MiB", ""),
    }
    return {
        "index": ("", ["$index"] * len(indexes)),
        "uuid|gpu_uuid": ("", [f"{UUID}{index:x}" for index in indexes]),
        "pci.bus_id|gpu_bus_id": ("", buses),
        "ecc.errors.uncorrected.volatile.total": ("", errors),
        **{names: (unit, [str(value)] * len(indexes)) for names, (unit, value) in same.items()},
    }


def _tell(fields: dict[str, tuple[str, list[str]]]) -> str:
    """Return the shell function `tell`, which fails where it does not know a field."""
    cases = []
    for names, (unit, values) in fields.items():
        for gpu, value in enumerate(values):
            place = "*" if len(set(values)) == 1 else str(gpu)
            told = f"told={value if value == '$index' else quote(value)}"
            words = "|".join(f"'{name} '{place}" for name in names.split("|"))
            cases.append(f"{words}) {told}{f' unit={quote(unit)}' if unit else ''} ;;\n")
    return f'tell() {{\nunit=\ncase "$1 $gpu" in\n{"".join(dict.fromkeys(cases))}*) return 1 ;;\nesac\n}}\n'


def _wiring(node: NodeClass, fault: str) -> str:
    """Return the shell function `wiring`: a GPU's row of the matrix, what is near it, its links' speeds."""
    expected, cases = node.topology(), []
    per_socket = len(node.cpus.numa) // node.cpus.sockets
    down = _down(node) if fault == "nvlink-down" else {}
    gb_s = node.nvlink.gb_s if node.nvlink else 0
    speed = SPEEDS.get(node.nvlink.generation if node.nvlink else 0, f"{gb_s:g}")
    for index, device in enumerate(node.gpus):
        cells = " ".join(
            "X" if other == index
            else expected.paths[f"GPU{min(index, other)}"][f"GPU{max(index, other)}"]
            for other in range(len(node.gpus))
        )  # fmt: skip
        cpus = format_list(_online(node.cpus, node.cpus.socket_cores(device.socket)))
        first = device.socket * per_socket
        numa = format_list(node.cpus.numa[first : first + per_socket])
        links = " ".join("inactive" if down.get(index) == link else speed for link in range(node.gpu.nvlinks))
        cases.append(f"{index}) cells={quote(cells)} cpus={cpus} numa={numa} links={quote(links)} ;;\n")
    return f"wiring() {{\ncase $gpu in\n{''.join(cases)}esac\n}}\n"


def _down(node: NodeClass) -> dict[int, int]:
    """Return which link of which GPU is down: one with its two ends, or one to a switch.

    The matrix is left as it is: no recording shows what drivers put there for a link that is down.
    """
    gpus = node.topology().gpus
    faulty = _faulty(node)
    links = gpus[faulty].nvlinks or []
    ends = {faulty: 0}
    if links and (links[0].remote or "").startswith("GPU"):
        peer = int((links[0].remote or "")[len("GPU") :])
        back = gpus[peer].nvlinks or []
        ends[peer] = next(link.link for link in back if link.remote == f"GPU{faulty}")
    return ends
