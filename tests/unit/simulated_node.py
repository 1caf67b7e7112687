"""A healthy Minsky or AC922 out of stand-in programs and files: simulated, for tests to break."""

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minsky import simulated
from minsky.gpus.classes import load
from minsky.gpus.model import format_list
from minsky.nodecheck.node import InfiniBand, Node

# Checks that ask nvidia-smi, and fail where it does not answer.
ASKS_DRIVER = {
    "driver", "gpus", "nvlinks", "ecc", "throttling", "clocks", "persistence", "pcie", "gpu-memory",
}  # fmt: skip


def rows(*cells: str, gpus: int = 4) -> str:
    """A line for each GPU: its index, then *cells*, in which {} is the index."""
    return "".join(
        ", ".join([str(gpu), *(cell.replace("{}", str(gpu)) for cell in cells)]) + "\n" for gpu in range(gpus)
    )


def unmunge(offset: float = 0, status: str = "Success (0)") -> str:
    now = int(time.time() + offset)
    return f"STATUS:           {status}\nENCODE_TIME:      whenever ({now})\n"


@dataclass
class Simulated:
    """Programs in *directory*/bin and files in *directory*/root; `answer` and `file` change what they say."""

    directory: Path
    class_name: str = "minsky-p100"
    programs: dict[str, dict[str, tuple[str, int]]] = field(default_factory=dict)
    posing: dict[str, str] = field(default_factory=dict)  # programs that minsky.simulated makes

    def __post_init__(self) -> None:
        node = load(self.class_name)
        self.programs = {
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
        self.pose()
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

    def pose(self, fault: str = simulated.NONE, **changes: Any) -> None:
        """Have GPUs and processors say what the class with *changes* would; a dict changes some of a part."""
        node = load(self.class_name)
        for name, change in changes.items():
            new = replace(getattr(node, name), **change) if isinstance(change, dict) else change
            node = replace(node, **{name: new})
        tree = simulated.tree(node, fault, str(self.directory))
        self.posing = {Path(path).name: text for path, text in tree.items() if "bin/" in path}
        for name in self.posing:
            self._write(name)

    def answer(self, name: str, pattern: str, text: str, code: int = 0) -> None:
        """Let program *name* print *text* and end with *code* where its arguments fit *pattern*."""
        self.programs[name] = {pattern: (text, code), **self.programs.get(name, {})}
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
        clocks = "715,1328" if "p100" in self.class_name else "877,1530"
        return Node(
            node_class=load(self.class_name), root=self.directory / "root", clocks=clocks,
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
            for pattern, (text, code) in self.programs.get(name, {}).items()
        )
        rest = self.posing.get(name, 'echo "simulated: $*?"; exit 64\n')
        file = self.directory / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\n# simulated\ncase "$*" in\n{cases}esac\n{rest}')
        file.chmod(0o755)
