"""Ranks, nodes, threads and GPUs of a run, and its end when a rank fails."""

import math
import os
import signal
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from labs.labkit import LabError
from labs.labkit.lazy import hvd, tf

MANY = 8  # nodes, from which on not all are named


@dataclass(frozen=True)
class Place:
    """Where one rank runs: its node, the kernel below it, the CPUs it may use, its threads."""

    node: str
    machine: str
    cpus: frozenset[int]
    threads: int


@dataclass(frozen=True)
class World:
    """One rank's view of all ranks."""

    rank: int
    places: list[Place]
    begun: float = field(default_factory=time.monotonic)  # when this rank was started

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.places)

    @property
    def threads(self) -> int:
        """Threads of this rank."""
        return self.places[self.rank].threads

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes, in order of ranks."""
        return list(dict.fromkeys(place.node for place in self.places))

    @property
    def machines(self) -> int:
        """Number of kernels below the nodes: fewer than nodes where these are simulated."""
        return len({place.machine for place in self.places})

    @property
    def place(self) -> str:
        """Where it runs, in words."""
        nodes, machines = self.nodes, self.machines
        where = count(len(nodes), "node")
        if machines < len(nodes):
            below = "one machine" if machines == 1 else f"{machines} machines"
            where = f"{len(nodes)} simulated nodes of {below}"
        names = " ".join(nodes if len(nodes) <= MANY else [nodes[0], "...", nodes[-1]])
        return f"{count(self.size, 'rank')} on {where} ({names}), {count(self.threads, 'thread')} each"

    def say(self, text: str) -> None:
        """Print *text* at once, on rank 0 only."""
        if self.rank == 0:
            print(text, flush=True)


def count(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural where it is one."""
    return f"{number} {noun}{'s' * (number != 1)}"


def threads(usable: int, environment: Mapping[str, str] = os.environ) -> int:
    """Threads for one rank: what Slurm granted, or its share of the node, at most *usable* CPUs.

    `mpirun` leaves all CPUs of the node to each of its ranks unless it binds them, so there the share
    is the CPUs divided by the ranks on this node.
    """
    share = usable // int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or 1)
    return max(1, min(usable, int(environment.get("SLURM_CPUS_PER_TASK") or share)))


def usable(root: Path = Path("/")) -> int:
    """CPUs for this process: those it may run on, or fewer where the quota of a cgroup around it is less.

    *root* holds proc/self/cgroup and sys/fs/cgroup. Quotas are CPU time over time, so 1.5 gives one CPU.
    """
    quotas = [math.inf]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
            if not controllers or "cpu" in controllers.split(","):
                group = top / path.lstrip("/")
                quotas += [_quota(here) for here in (group, *group.parents) if here.is_relative_to(top)]
    return int(max(1, min(len(os.sched_getaffinity(0)), *quotas)))


def _quota(group: Path) -> float:
    """CPUs by the quota of one cgroup, of version 2 or 1; infinite where it has none."""
    with suppress(OSError, ValueError):  # no such file; "max"
        quota, period = map(int, (group / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError):
        quota, period = (int((group / f"cpu.cfs_{what}_us").read_text()) for what in ("quota", "period"))
        return quota / period if quota > 0 else math.inf
    return math.inf


def crowding(places: list[Place]) -> str:
    """Return a sentence where ranks share CPUs, so that nobody takes the run's speed for a measurement."""
    machines = defaultdict(list)
    for place in places:
        machines[place.machine].append(place)
    for ranks in machines.values():
        wanted = sum(rank.threads for rank in ranks)
        cpus = len(frozenset().union(*(rank.cpus for rank in ranks)))
        if wanted > cpus:
            who, where = (
                f"{count(len(ranks), 'rank')} with {wanted} threads",
                f"{count(cpus, 'CPU')} of one machine",
            )
            return f"{who} share {where}: a run for correctness, not for speed"
    return ""


class StoppedError(Exception):
    """A signal asked a rank to stop, and all have; there is a checkpoint."""


RESUMABLE = 75  # exit status of a run that was stopped so: EX_TEMPFAIL of sysexits.h
_asked: list[int] = []


def asked_to_stop() -> int:
    """The signal that asked this rank to stop, 0 without one."""
    return _asked[0] if _asked else 0


def heed(*signals: int) -> None:
    """From now on, let these *signals* ask instead of kill."""
    for number in signals:
        signal.signal(number, lambda received, _: _asked.append(received))


@contextmanager
def start() -> Iterator[World]:
    """Join the ranks of this run; a failure on one of them prints its reason and ends all.

    Yields:
        This rank's World.
    """
    begun = time.monotonic()
    heed(signal.SIGUSR1)  # Slurm's warning that time is nearly up, which may come while TensorFlow loads
    try:
        cpus = frozenset(os.sched_getaffinity(0))
        granted = threads(usable())
        os.environ["OMP_NUM_THREADS"] = str(granted)  # oneDNN and BLAS read it once, when they are loaded
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        tf.config.threading.set_intra_op_parallelism_threads(granted)
        tf.config.threading.set_inter_op_parallelism_threads(granted)
        hvd.init()  # Horovod: the ranks find each other
        if gpus := tf.config.list_physical_devices("GPU"):
            mine = gpus[gpu(hvd.local_rank(), hvd.local_size(), len(gpus))]  # Horovod: a rank, a GPU
            tf.config.set_visible_devices(mine, "GPU")
            tf.config.experimental.set_memory_growth(mine, enable=True)
        _refuse_strangers(hvd.size(), os.environ)
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        here = Place(os.uname().nodename, machine, cpus, granted)
        yield World(hvd.rank(), hvd.allgather_object(here), begun)
    except StoppedError as stopped:
        if launch_rank() == 0:
            print(stopped, flush=True)
        os._exit(RESUMABLE)
    except LabError as error:
        _end(str(error))
    except Exception:  # noqa: BLE001 - whatever it is, the other ranks must not wait for this one
        _end(traceback.format_exc(), patience=1)


def gpu(rank: int, ranks: int, visible: int) -> int:
    """Index of the GPU, among those *visible*, for a node's *rank* of so many *ranks*.

    All GPUs of the job stay visible to CUDA, or NCCL could not copy from one to the other. Where there is one
    alone, a launcher has shown each rank its own.

    Raises:
        LabError: there are more ranks than GPUs.
    """
    if ranks > visible > 1:
        raise LabError(
            f"{ranks} ranks on {os.uname().nodename} have {visible} GPUs, and NCCL refuses two ranks on one: "
            f"start {visible} ranks on a node"
        )
    return rank % visible


def _refuse_strangers(ranks: int, environment: Mapping[str, str]) -> None:
    """Refuse N processes that each take themselves for the only one and would write the same files."""
    started = int(environment.get("SLURM_STEP_NUM_TASKS") or 1)
    if ranks == 1 and started > 1:
        raise LabError(
            f"Slurm started {started} tasks, but MPI sees only one: start them with `srun --mpi=pmix` "
            "(`srun --mpi=list` shows whether this cluster has it)",
        )


def launch_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Rank as the launcher numbers it: known before Horovod is."""
    # Slurm's last: it numbers a batch script 0, and so all that mpirun starts there
    names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    return int(next(filter(None, map(environment.get, names)), 0))


PATIENCE = 10  # seconds by which rank 0 may come later to the same failure: ranks drift apart while they load


def let_rank_0_speak(status: int, patience: float = PATIENCE) -> None:
    """Before this rank fails with *status*: where all fail alike, one says why, and all leave with it.

    Rank 0 goes on at once, and its end makes the launcher terminate the others while they wait here. Whether
    it fails at all they cannot know: it may be waiting for them, so after *patience* seconds they speak.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(status))
    time.sleep(patience if launch_rank() else 0)


def _end(reason: str, patience: float = PATIENCE) -> NoReturn:
    let_rank_0_speak(1, patience)
    print(f"rank {launch_rank()} on {os.uname().nodename} failed: {reason}", file=sys.stderr, flush=True)
    os._exit(1)  # not sys.exit: Horovod's shutdown would wait for ranks that wait for this one
