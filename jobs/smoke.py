"""What a job finds of the nodes that it was given; `smoke.sh` runs these parts, one after the other.

`node` asks nodecheck on each node, `ranks` runs in the image on every rank, `table` shows what both wrote and
ends with 1 where something failed. Parts that run outside the image use Python's standard library alone.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NODECHECK = "/usr/local/sbin/nodecheck"
SECONDS = 300  # for all that nodecheck measures
OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
# What a user may ask: not mounts, where only root may write; nor Xid errors, as users may not read the
# kernel's log; nor for a container, which the node starts as another user, and this job anyway.
PLAIN = (
    "processors", "smt", "numa", "gpu-numa", "cpuset", "npu", "memory", "munge", "time", "infiniband",
)  # fmt: skip
ANY_GPU = (
    "driver",
    "ecc",
    "throttling",
    "clocks",
    "persistence",
    "pcie",
    "gpu-memory",
    "host-to-device",
    "peer",
)
ALL_GPUS = ("gpus", "nvlinks")  # compare with the class what a job of fewer does not see
DEVICES = Path("/dev")
NETWORKS = Path("/sys/class")
ENOUGH = 0.5  # of what a path carries: a sum crosses it in both directions and waits for the slowest
ROUNDING = 1e-5  # of float32, in sums of a few numbers
WIDEST = 40


def finding(name: str, expected: str, found: str, verdict: str = OK, do: str = "") -> dict[str, Any]:
    """Return a finding as nodecheck has them."""
    return {"name": name, "expected": expected, "found": found, "verdict": verdict, "do": do}


# --- on each node, outside the image -----------------------------------------------------------------------


def here() -> str:
    """Return this node's name, Slurm's where it has one."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def given(environment: Mapping[str, str] = os.environ) -> list[int]:
    """Return which of this node's GPUs Slurm gave, by the numbers of their devices; without Slurm all."""
    if "SLURM_JOB_ID" not in environment:
        return devices()
    # The job's are those of the batch script's node, where a step has its own.
    told = environment.get("SLURM_STEP_GPUS") or environment.get("SLURM_JOB_GPUS") or ""
    return sorted(int(number) for number in re.findall("[0-9]+", told))


def devices() -> list[int]:
    """Return the numbers of this node's GPUs, whoever may open them."""
    numbers = (re.fullmatch("nvidia([0-9]+)", path.name) for path in DEVICES.glob("nvidia[0-9]*"))
    return sorted(int(number[1]) for number in numbers if number)


def node(directory: Path) -> None:
    """Write what nodecheck says of this node, as far as the job's part of it can be judged."""
    held, there = given(), devices()
    names = PLAIN + (ANY_GPU if held else ()) + (ALL_GPUS if held and len(held) == len(there) else ())
    told: dict[str, Any] = {"class": "", "simulated": False, "floors": {}}
    try:
        done = subprocess.run(
            [NODECHECK, "--json", "--only", ",".join(names)], check=False, timeout=SECONDS,
            capture_output=True, text=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        told |= json.loads(lines[-1]) if lines else {"checks": [_silent(" ".join(done.stderr.split()))]}
    except (OSError, subprocess.TimeoutExpired) as error:
        told["checks"] = [_silent(str(error))]
    told["network_gb_s"] = network()
    (directory / f"node-{here()}.json").write_text(json.dumps(told))


def _silent(said: str) -> dict[str, Any]:
    expected, do = f"{NODECHECK} tells what it finds", "ask whoever runs the cluster for playbooks/site.yml"
    return finding("nodecheck", expected, said or "nothing", FAILED, do)


def network() -> float:
    """Return GB/s that this node's network carries in one direction; 0 where the kernel does not tell."""

    def number(file: Path) -> float:
        try:
            return float((re.match("[0-9.]+", file.read_text()) or "0")[0])
        except OSError:  # an interface that is down
            return 0.0

    adapters: dict[str, float] = defaultdict(float)
    for port in (rate.parent for rate in NETWORKS.glob("infiniband/*/ports/*/rate")):
        if "ACTIVE" in (port / "state").read_text():
            # its ports are functions of one PCIe device, which carries no more than one of them
            address = (port.parents[1] / "device").resolve().name.partition(".")[0]
            adapters[address] = max(adapters[address], number(port / "rate"))
    # those that are hardware: a bridge, or a container's end of one, tells 10 Gb/s whatever is behind it
    speeds = (number(device.with_name("speed")) for device in NETWORKS.glob("net/*/device"))
    return (sum(adapters.values()) or max(speeds, default=0.0) / 1000) / 8  # of Mb/s


# --- on every rank, in the image ---------------------------------------------------------------------------


def opened(number: int) -> str:
    """Return `open`, or the name of the error with which a GPU's device refuses."""
    try:
        os.close(os.open(DEVICES / f"nvidia{number}", os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "open"


def reached() -> dict[str, Any]:
    """Return whether the job reaches the GPUs that it was given, and no others."""
    held, there = given(), devices()
    expected = "GPUs given can be opened (simulated: ENXIO), others not (EPERM)"
    if not held and not there:
        return finding("devices", expected, "no GPUs here, and none given", SKIPPED)
    states = {number: opened(number) for number in sorted({*held, *there})}
    good = all(
        state in ({"open", "ENXIO"} if number in held else {"EPERM"}) for number, state in states.items()
    )
    said = ", ".join(f"{number} {state}" for number, state in states.items())
    do = "ConstrainDevices in cgroup.conf, and Gres=gpu with File= in gres.conf, keep others' GPUs away"
    who = f"given {', '.join(map(str, held)) or 'none'}"
    return finding("devices", expected, f"{who}: {said}", OK if good else FAILED, "" if good else do)


def seen(count: int, simulated: bool) -> dict[str, Any]:
    """Return whether TensorFlow, which sees *count* GPUs, sees those that Slurm gave."""
    wanted = 0 if simulated else len(given())
    expected = f"{wanted} GPUs" + (" (simulated ones compute nothing)" if simulated and given() else "")
    do = f"{os.environ.get('MINSKY_IMAGE', 'the image')} must be one with CUDA, for a driver that is no older"
    good = count == wanted
    return finding("tensorflow", expected, f"{count} GPUs", OK if good else FAILED, "" if good else do)


def step(world: Any) -> dict[str, Any]:
    """Return whether ranks have the same sum of known values, and the same gradient as one process has."""
    import numpy as np  # noqa: PLC0415 - it is in the image

    from labs.labkit.lazy import hvd, tf  # noqa: PLC0415

    expected = "the sum of all ranks' numbers; gradients alike, and those of the whole batch"
    if world.size == 1:
        return finding("horovod", expected, "one rank alone: -N 2, or -n 2", SKIPPED)
    total = hvd.allreduce(tf.fill([1000], float(world.rank + 1)), op=hvd.Sum, name="known")
    wanted = world.size * (world.size + 1) // 2
    x = np.linspace(-1, 1, 8 * world.size, dtype=np.float32)
    y, weights = 3 * x + 1, tf.Variable([0.0, 0.0])
    mine = slice(world.rank, None, world.size)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((weights[0] * x[mine] + weights[1] - y[mine]) ** 2)
    gradient = hvd.DistributedGradientTape(tape).gradient(loss, [weights])[0].numpy()
    everyones = np.array(hvd.allgather_object(gradient))
    apart = float(np.ptp(everyones, axis=0).max())
    off = float(abs(everyones - np.array([np.mean(-2 * y * x), np.mean(-2 * y)])).max())
    good = bool((total.numpy() == wanted).all()) and max(apart, off) < ROUNDING
    found = f"sum {float(total[0]):g} of {wanted}, gradients {apart:.0e} apart, {off:.0e} off"
    return finding(
        "horovod", expected, found, OK if good else FAILED, "" if good else "HOROVOD_LOG_LEVEL=debug"
    )


def bandwidth(ranks: list[int], together: Any, mib: int, *, on_gpu: bool) -> float:
    """Return GB/s of an all-reduce of *mib* MiB over *ranks*, as bus bandwidth; 0 where a sum is wrong.

    That is bytes over time, times 2(n-1)/n for n ranks: what each link carries, whatever n is (nccl-tests,
    doc/PERFORMANCE.md).
    """
    from labs.labkit.lazy import hvd, tf  # noqa: PLC0415

    repeat, n, name = 10, len(ranks), f"of.{ranks[0]}.to.{ranks[-1]}"
    with tf.device("GPU:0" if on_gpu else "CPU:0"):
        tensor = tf.fill([mib << 18], float(hvd.rank() + 1))

    def summed() -> float:
        return float(hvd.allreduce(tensor, op=hvd.Sum, name=name, process_set=together)[-1])

    if summed() != sum(ranks) + n:  # which opened the connections
        return 0.0
    begin = time.perf_counter()
    for _ in range(repeat):
        summed()
    return (mib << 20) * repeat / (time.perf_counter() - begin) * 2 * (n - 1) / n / 1e9


def judge(name: str, rate: float, path: float, source: str, *, nccl: bool) -> dict[str, Any]:
    """Return the finding of an all-reduce at *rate* GB/s; *path*: what lies between carries, by *source*."""
    if not rate:
        return finding(
            name, "the sum of all ranks' numbers", "another sum", FAILED, "NCCL_DEBUG=INFO tells more"
        )
    if not nccl or not path:
        why = "the network's rate is not told" if nccl else "MPI between CPUs, and no NCCL between GPUs"
        return finding(name, "a right sum", f"{rate:.2f} GB/s, without a verdict: {why}")
    good = rate >= ENOUGH * path
    do = "NCCL_DEBUG=INFO names the path that it takes: NET/Socket where InfiniBand or NVLink is meant?"
    expected = f"{ENOUGH * path:.1f} GB/s at least ({source})"
    return finding(name, expected, f"{rate:.1f} GB/s", OK if good else FAILED, "" if good else do)


def allreduce(world: Any, told: dict[str, Any], mib: int, *, on_gpu: bool) -> list[dict[str, Any]]:
    """Return the findings of all-reduce inside this rank's node, and between nodes."""
    from labs.labkit.lazy import hvd  # noqa: PLC0415

    nccl, found = on_gpu and hvd.nccl_built(), []
    members = defaultdict(list)
    for rank, place in enumerate(world.places):
        members[place.node].append(rank)
    sets = {
        name: hvd.global_process_set if len(ranks) == world.size else hvd.add_process_set(ranks)
        for name, ranks in members.items() if len(ranks) > 1
    }  # fmt: skip
    mine = world.places[world.rank].node
    if mine in sets:
        rate = bandwidth(members[mine], sets[mine], mib, on_gpu=on_gpu)
        least = min((floor["gb_s"] for floor in told.get("floors", {}).values()), default=0.0)
        source = "half of the class's lowest floor for copies, since a ring takes the slowest path"
        found.append(judge("allreduce-inside", rate, least, source, nccl=nccl))
    if len(members) > 1:
        hvd.allgather_object(None)  # until all nodes are through with their own
        rate = bandwidth([*range(world.size)], hvd.global_process_set, mib, on_gpu=on_gpu)
        source = "half of what the node's network carries, by the kernel"
        found.append(judge("allreduce-across", rate, told.get("network_gb_s", 0.0), source, nccl=nccl))
    return found


def ranks(directory: Path, mib: int) -> None:
    """Do on every rank what needs TensorFlow and Horovod; rank 0 writes what all found."""
    os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
    from labs.labkit.lazy import hvd, tf  # noqa: PLC0415 - only in the image
    from labs.labkit.world import start  # noqa: PLC0415

    with start() as world:
        world.say(f"smoke: {world.place}")
        try:
            told = json.loads((directory / f"node-{here()}.json").read_text())
        except OSError:  # told of in the table
            told = {}
        count = len(tf.config.list_physical_devices("GPU"))
        checks = [reached(), seen(count, told.get("simulated", False)), step(world)]
        checks += allreduce(world, told, mib, on_gpu=count > 0)
        everyones = hvd.allgather_object((here(), checks))
        if world.rank == 0:
            (directory / "ranks.json").write_text(json.dumps(everyones))


# --- what all found ----------------------------------------------------------------------------------------


def collect(directory: Path, nodes: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what was found on each of *nodes*, by check; of several ranks' findings the worst."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in nodes}
    written = {file.stem.removeprefix("node-"): file for file in directory.glob("node-*.json")}
    for name in nodes:
        checks = (
            json.loads(written[name].read_text())["checks"] if name in written else [_silent("no answer")]
        )
        found[name] |= {each["name"]: each for each in checks}
    try:
        everyones = json.loads((directory / "ranks.json").read_text())
    except OSError:
        do = "what the ranks said above tells why; srun --mpi=list must have pmix"
        lost = finding("ranks", "they run, and end", "they did not end", FAILED, do)
        everyones = [(name, [lost]) for name in nodes]
    order = (SKIPPED, OK, WARNING, FAILED)
    for name, checks in everyones:
        for each in checks:
            other = found[name].get(each["name"], each)
            found[name][each["name"]] = max(other, each, key=lambda one: order.index(one["verdict"]))
    return found


def _told(file: Path) -> dict[str, Any]:
    """Return what a node says of itself, but for its checks."""
    told = json.loads(file.read_text()) if file.exists() else {}
    return {"class": told.get("class", ""), "simulated": told.get("simulated", False)}


def table(directory: Path, nodes: list[str]) -> int:
    """Print the table and the RESULT line; returns 1 where something failed."""
    found = collect(directory, nodes)
    told = {name: _told(directory / f"node-{name}.json") for name in nodes}
    answers = [{"node": name, **told[name], "checks": list(found[name].values())} for name in nodes]
    (directory / "nodes.jsonl").write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, checks in found.items():
        for each in checks.values():
            alike[tuple(each[key] for key in ("name", "verdict", "found", "expected", "do"))].append(name)
    rows = [("check", "verdict", "nodes", "found", "expected")]
    lines, order = [], list(dict.fromkeys(check for check, *_ in alike))
    cells = sorted(alike.items(), key=lambda cell: order.index(cell[0][0]))
    for (check, verdict, said, expected, _), where in cells:
        everywhere = f"all {len(nodes)}" if len(where) == len(nodes) > 1 else ",".join(where)
        rows.append((check, verdict.upper() if verdict == FAILED else verdict, everywhere, said, expected))
    widths = [max(min(len(row[column]), WIDEST) for row in rows) for column in range(4)]
    for row, do in zip(rows, ["", *(key[4] for key, _ in cells)], strict=True):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[4]]).rstrip())
        lines += [f"{'':{widths[0]}}  do: {do}"] if do else []
    failed = {
        name: bad for name, checks in found.items()
        if (bad := [each["name"] for each in checks.values() if each["verdict"] == FAILED])
    }  # fmt: skip
    simulated = any(each["simulated"] for each in told.values())
    classes = sorted({each["class"] for each in told.values() if each["class"]})
    note = "simulated GPUs: what they are is replayed, what they compute nobody knows" if simulated else ""
    where = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    verdict = "; ".join(f"{name}: {', '.join(bad)} FAILED" for name, bad in failed.items()) or "none failed"
    result = {
        "lab": "smoke", "data": where, "nodes": len(nodes), "classes": classes, "simulated": simulated,
        "failed": failed, "goal": {"measure": "checks", "reached": not failed}, "plot": "", "note": note,
        "summary": {"checks": verdict, "class": ", ".join(classes)}, "results": str(directory),
    }  # fmt: skip
    print("\n".join(["", *lines, "", f"{where}, class {', '.join(classes) or 'not told'}: {verdict}"]))
    print(f"{note}\n" * bool(note) + f"RESULT {json.dumps(result)}", flush=True)
    return int(bool(failed))


def main() -> int:
    """Do one part."""
    parser = argparse.ArgumentParser(prog="smoke.sh", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("node", "ranks", "table"), help=argparse.SUPPRESS)
    parser.add_argument("directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nodes", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--mib", type=int, default=64, metavar="N", help="MiB that all-reduce sums (default: %(default)s)"
    )
    chosen = parser.parse_args()
    if chosen.part == "node":
        node(chosen.directory)
    elif chosen.part == "ranks":
        ranks(chosen.directory, chosen.mib)
    else:
        return table(chosen.directory, chosen.nodes.split())
    return 0


if __name__ == "__main__":
    sys.exit(main())
