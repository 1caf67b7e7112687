"""A healthy Minsky or AC922 out of stand-in programs and files: simulated, for tests to break."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from minsky.gpus.classes import load
from minsky.gpus.model import format_list
from minsky.nodecheck.node import InfiniBand, Node

UUID = "GPU-11111111-2222-3333-4444-55555555555"


def rows(*cells: str, gpus: int = 4) -> str:
    """A line for each GPU: its index, then *cells*, in which {} is the index."""
    return "".join(
        ", ".join([str(gpu), *(cell.replace("{}", str(gpu)) for cell in cells)]) + "\n" for gpu in range(gpus)
    )


def unmunge(offset: float = 0, status: str = "Success (0)") -> str:
    now = int(time.time() + offset)
    return f"STATUS:           {status}\nENCODE_TIME:      whenever ({now})\n"


def numactl(cpus: int, gpu_mib: int = 32256) -> str:
    nodes = [0, 8, 252, 253, 254, 255]
    lines = ["available: 6 nodes (0,8,252-255)"]
    for place, node in enumerate(nodes):
        listed = range(place * cpus, (place + 1) * cpus) if place < 2 else ()
        lines += [f"node {node} cpus:{''.join(f' {cpu}' for cpu in listed)}",
                  f"node {node} size: {257716 if place < 2 else gpu_mib} MB",
                  f"node {node} free: 0 MB"]  # fmt: skip
    lines += ["node distances:", "node " + " ".join(map(str, nodes))]
    for node in nodes:
        lines.append(f" {node}: " + " ".join("10" if node == other else "80" for other in nodes))
    return "\n".join(lines) + "\n"


def lscpu(sockets: int, cores: int, threads: int, numa: tuple[int, ...] = (0, 1)) -> str:
    size = cores * threads
    near = "".join(
        f"NUMA node{node} CPU(s): {place * size}-{(place + 1) * size - 1}\n"
        for place, node in enumerate(numa)
    )
    return (
        f"On-line CPU(s) list: 0-{sockets * size - 1}\nThread(s) per core: {threads}\n"
        f"Core(s) per socket: {cores}\nSocket(s): {sockets}\nNUMA node(s): {len(numa)}\n{near}"
    )


def matrix(links: int, socket_cpus: int, between: str = "SYS") -> str:
    near = [f"0-{socket_cpus - 1}"] * 2 + [f"{socket_cpus}-{2 * socket_cpus - 1}"] * 2
    text = "\tGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\n"
    for gpu in range(4):
        cells = ["X" if gpu == to else f"NV{links}" if gpu // 2 == to // 2 else between for to in range(4)]
        text += "\t".join([f"GPU{gpu}", *cells, near[gpu]]) + "\n"
    return text


def status(links: int, gb_s: str, model: str, down: tuple[int, int] | None = None) -> str:
    lines = []
    for gpu in range(4):
        lines.append(f"GPU {gpu}: {model} (UUID: {UUID}{gpu})")
        lines += [f"\t Link {link}: {'<inactive>' if down == (gpu, link) else gb_s}" for link in range(links)]
    return "\n".join(lines) + "\n"


@dataclass
class Simulated:
    """Programs in *directory*/bin and files in *directory*/root; `answer` and `file` change what they say."""

    directory: Path
    class_name: str = "minsky-p100"
    programs: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        node = load(self.class_name)
        model, size = node.gpu.names[0], node.cpus.cores * node.cpus.threads
        memory = node.gpu.memory_mib or 16160
        buses = [gpu.bus_id for gpu in node.topology().gpus]
        listing = "".join(f"GPU {gpu}: {model} (UUID: {UUID}{gpu})\n" for gpu in range(4))
        query = "index, name, uuid, pci.bus_id, memory.total [MiB]\n"
        query += "".join(
            f"{gpu}, {model}, {UUID}{gpu}, {bus}, {memory} MiB\n" for gpu, bus in enumerate(buses)
        )
        speed = "19.531 GB/s" if node.gpu.nvlinks == 4 else "25.781 GB/s"
        self.programs = {
            "nvidia-smi": {
                "-L": (listing, 0),
                "topo -m": (matrix(node.gpus[0].links[1], size), 0),
                "nvlink --status": (status(node.gpu.nvlinks, speed, model), 0),
                "*index,name,uuid,pci.bus_id*": (query, 0),
                "*driver_version*": (rows("470.161.03"), 0),
                "*ecc.mode*": (rows("Enabled", "0", "No"), 0),
                "*clocks_throttle_reasons*": (rows("0x0000000000000001"), 0),
                "*clocks.applications*": (rows("715", "1328"), 0),
                "*persistence_mode*": (rows("Enabled"), 0),
                "*pcie.link.width*": (rows("16", "16"), 0),
                "*index,uuid,memory.used*": (rows(f"{UUID}{{}}", "0"), 0),
                "*compute-apps*": ("", 0),
            },
            "lscpu": {
                "*": (lscpu(2, node.cpus.cores, node.cpus.threads, tuple(node.cpus.numa)), 0)
            },
            "numactl": {"-H": (numactl(size), 0)},
            "dmesg": {"*": ("[    1.000000] NVRM: loading NVIDIA UNIX ppc64le Kernel Module\n", 0)},
            "munge": {"-n": ("MUNGE:AwQDAAB:\n", 0)},
            "unmunge": {"*": (unmunge(), 0)},
            "chronyc": {"-c tracking": (
                "0A000001,node0,3,17643.1,0.000012,0.00001,0.00002,-1.2,0.0,0.01,0.001,0.002,64.2,Normal\n", 0
            )},
            "apptainer": {"exec *": ("", 0)},
        }  # fmt: skip
        for name in self.programs:
            self._write(name)
        self.file("proc/meminfo", "MemTotal:  536870912 kB\nMemFree: 1 kB\nMemAvailable:  530000000 kB\n")
        self.file("proc/uptime", "100000.00 90000.00\n")
        self.file("proc/kallsyms", "0000000000000000 T pnv_pci_get_npu_dev\n")
        for port in ("mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"):
            self.port(port)
        wanted = format_list([*node.cpus.numa, *node.cpus.gpu_numa])
        for group in ("system.slice", "docker"):
            self.file(f"sys/fs/cgroup/cpuset/{group}/cpuset.mems", f"{wanted}\n")
        for number in node.cpus.gpu_numa:
            path = f"sys/devices/system/node/node{number}/meminfo"
            self.file(path, f"Node {number} MemTotal:       33030144 kB\n")

    def answer(self, name: str, pattern: str, text: str, code: int = 0) -> None:
        """Let program *name* print *text* and end with *code* where its arguments fit *pattern*."""
        self.programs[name] = {pattern: (text, code), **self.programs[name]}
        self.programs[name][pattern] = (text, code)
        self._write(name)

    def remove(self, name: str) -> None:
        """Take program *name* away."""
        (self.directory / "bin" / name).unlink()

    def file(self, path: str, text: str) -> None:
        """Let a file below the root say *text*."""
        file = self.directory / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def port(self, name: str, state: str = "4: ACTIVE", rate: str = "100 Gb/sec (4X EDR)") -> None:
        """Let an InfiniBand port be in *state*."""
        self.file(f"sys/class/infiniband/{name}/ports/1/state", f"{state}\n")
        self.file(f"sys/class/infiniband/{name}/ports/1/rate", f"{rate}\n")

    def node(self) -> Node:
        """The node that it is, with what a site states."""
        return Node(
            node_class=load(self.class_name), root=self.directory / "root", clocks="715,1328",
            memory_mib=500000, infiniband=InfiniBand(2, 100), container="apptainer exec /images/lab.sif true",
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """The environment in which only its programs are found, and no NVML."""
        library = self.directory / "lib" / "libnvidia-ml.so.1"  # which cannot be loaded
        library.parent.mkdir(exist_ok=True)
        library.touch()
        return {**os.environ, "PATH": str(self.directory / "bin"), "LD_LIBRARY_PATH": str(library.parent)}

    def _write(self, name: str) -> None:
        cases = "".join(
            f"{pattern.replace(' ', chr(92) + ' ')}) printf '%s' '{text}'; exit {code};;\n"
            for pattern, (text, code) in self.programs[name].items()
        )
        file = self.directory / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f'#!/bin/sh\n# simulated\ncase "$*" in\n{cases}esac\necho "simulated: $*?"; exit 64\n'
        )
        file.chmod(0o755)
