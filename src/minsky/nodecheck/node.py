"""What a node must have: its class, and a small file of what differs between sites."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from minsky.errors import MinskyError
from minsky.gpus.classes import NONE, NodeClass, load
from minsky.gpus.model import Topology
from minsky.records import FaultsError, mapping, record

FILE = Path("/etc/minsky/nodecheck.yml")
SIMULATED = "etc/minsky/simulated"  # below the root of a node whose GPUs are simulated
SMI, CPUS = "nvidia-smi", "lscpu or numactl"  # whose outputs a recording may be


@dataclass(frozen=True)
class Mount:
    """A file system; *type* as in /proc/mounts, fuse.* allowed. *writable*: a file is written and removed."""

    type: str = "*"
    writable: bool = True


@dataclass(frozen=True)
class InfiniBand:
    """The *ports* that must be active at least, each with *gbit_s* at least; 0: any."""

    ports: int
    gbit_s: float = 0


@dataclass(frozen=True)
class Stated:
    """What the node file may state besides `class`."""

    mounts: dict[str, Optional[Mount]] = field(default_factory=dict)  # noqa: UP045 - evaluated, in 3.9, too
    skip: dict[str, str] = field(default_factory=dict)  # check: why these nodes cannot have it
    smt: int = 0  # threads per core that are online; 0: any that the class allows
    memory_mib: int = 0  # that the node has at least, without its GPUs'
    memory_free_mib: int = 512  # that jobs must leave to the system
    clocks: str = ""  # application clocks of the GPUs, "memory,graphics" in MHz
    infiniband: Optional[InfiniBand] = None  # noqa: UP045 - None: the ports that the class states
    time_offset_ms: float = 100
    container: str = ""  # a command that starts a container and ends


@dataclass(frozen=True)
class Node(Stated):
    """A node: what its file states, and its class. *root* is where /proc and /sys are.

    *recorded*: what recordings of it tell, where it is not this machine.
    """

    node_class: NodeClass | None = None
    root: Path = Path("/")
    recorded: tuple[Topology, ...] | None = None

    @property
    def simulated(self) -> bool:
        """Whether its GPUs are stand-ins that replay texts."""
        return self.recorded is None and (self.root / SIMULATED).exists()

    def told(self, by: str) -> list[Topology]:
        """Return the recordings of outputs *by* SMI or CPUS."""
        return [each for each in self.recorded or () if (each.cpus is not None) == (by == CPUS)]

    def read(self, path: str) -> str:
        """Return the content of a file of /proc or /sys; "" where there is none."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""


def read(file: Path | None, class_name: str | None) -> Node:
    """Return the node that *file* states, or FILE where it is there; *class_name* overrides its class.

    Raises:
        MinskyError: there is neither a file nor a class, or what they state is wrong.
    """
    if file is None and FILE.exists():
        file = FILE
    if file is None and class_name is None:
        raise MinskyError(
            f"there is no {FILE}, so what this node must have is not known: name another file by --node, or "
            "a class by --class (none: a node without GPUs)"
        )
    content = {}
    try:
        if file:
            content = mapping(file.read_text(errors="replace"))
        stated_class = content.pop("class", None)
        stated = record(content, Stated)
        shlex.split(stated.container)
    except OSError as error:
        raise MinskyError(f"{file} cannot be read ({error.strerror}): name a node file") from error
    except FaultsError as error:
        raise MinskyError("\n".join(f"{file}: {fault}" for fault in error.faults)) from error
    except ValueError as error:
        raise MinskyError(f"{file}: container: {stated.container!r} is no command: {error}") from error
    name = class_name or stated_class
    if not isinstance(name, str):
        raise MinskyError(
            f"{file}: class: {name!r} is none. State a class, the path of a class file (beside this one), or "
            f"{NONE} for a node without GPUs"
        )
    beside = file.parent / name if file and not class_name else Path(name)
    node_class = None if name == NONE else load(str(beside) if name.endswith((".yml", ".yaml")) else name)
    return Node(**vars(stated), node_class=node_class)
