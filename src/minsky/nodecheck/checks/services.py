"""What jobs need of the node's services: munge, time, network, containers."""

from __future__ import annotations

import re
import shlex
import shutil
import time as clock

from minsky.nodecheck.check import Failure, Finding, check, output, verdict
from minsky.nodecheck.node import InfiniBand, Node

MUNGE_SECONDS = 10  # by which munged's clock may differ; credentials are refused from 300 on
OFFSET = re.compile(r"Offset: ([+-]?[0-9.]+)(us|ms|s)\b")
MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@check("systemctl restart munge; its key and the clocks must be the same on all nodes")
def munge(node: Node) -> Finding:  # noqa: ARG001 - as all checks
    """A credential that munged makes and takes back, at the time that the node has."""
    told = output("unmunge", stdin=output("munge", "-n"))
    status = re.search(r"STATUS:\s*(.*)", told)
    encoded = re.search(r"ENCODE_TIME:.*\(([0-9]+)\)", told)
    if not status or not encoded:
        raise Failure("unmunge tells neither STATUS nor ENCODE_TIME")
    skew = int(encoded[1]) - int(clock.time())
    return verdict(
        f"Success, within {MUNGE_SECONDS} s of the clock",
        f"{status[1]}, {skew:+d} s",
        good=status[1].startswith("Success") and abs(skew) <= MUNGE_SECONDS,
    )


@check("systemctl restart chronyd; see chronyc sources for servers that do not answer")
def time(node: Node) -> Finding:
    """The clock is synchronised, and off by little."""
    expected = f"synchronised, within {node.time_offset_ms:g} ms"
    if shutil.which("chronyc") or not shutil.which("timedatectl"):
        cells = output("chronyc", "-c", "tracking").strip().split(",")
        try:  # from the end: older ones have a column less at the beginning
            offset, doubt = (1000 * float(cells[place]) for place in (-10, -3))
        except (IndexError, ValueError):
            raise Failure(f"chronyc: {','.join(cells)}") from None
        synchronised = cells[-1] in ("Normal", "Insert second", "Delete second")
        good = synchronised and abs(offset) + doubt <= node.time_offset_ms  # which grows without servers
        return verdict(expected, f"{cells[-1]}, {offset:+.3f} ms, give or take {doubt:.3f}", good=good)
    match = OFFSET.search(output("timedatectl", "timesync-status"))
    if not match:
        return verdict(expected, "timedatectl tells no offset: not synchronised", good=False)
    offset = float(match[1]) * MS[match[2]]
    return verdict(expected, f"{offset:+.3f} ms", good=abs(offset) <= node.time_offset_ms)


def _fabric(node: Node) -> InfiniBand:
    ports = node.node_class.nics.ports if node.node_class else 0
    return node.infiniband or InfiniBand(ports)


def attached(node: Node) -> str:
    """Say why no port is expected."""
    return "" if _fabric(node).ports else "no ports are stated, by class or node file"


@check("see ibstat, the cable and the switch's port; no port at all: load mlx5_ib", applies=attached)
def infiniband(node: Node) -> Finding:
    """InfiniBand ports active, at their rate."""
    wanted = _fabric(node)
    ports = {}
    for port in sorted((node.root / "sys/class/infiniband").glob("*/ports/*")):
        state, rate = (node.read(f"{port.relative_to(node.root)}/{name}") for name in ("state", "rate"))
        up = state.endswith("ACTIVE")
        number = re.match(r"[0-9.]+", rate)
        fast = up and bool(number) and float(number[0] if number else 0) >= wanted.gbit_s
        words = f"{rate.split(' (')[0]}" if up else state.split(": ")[-1]
        ports[f"{port.parts[-3]}/{port.name}"] = (fast, words)
    good = sum(fast for fast, _ in ports.values())
    rate = f" at {wanted.gbit_s:g} Gb/s" if wanted.gbit_s else ""
    found = "; ".join(f"{name}: {words}" for name, (_, words) in ports.items()) or "no port"
    return verdict(f"{wanted.ports} ports{rate} at least", found, good=good >= wanted.ports)


def contained(node: Node) -> str:
    """Say why no container is started."""
    return "" if node.container.strip() else "the node file states no command that starts one"


@check(
    "run by hand what the node file states as container; apptainer -d tells more",
    applies=contained,
    seconds=8.0,
)
def container(node: Node) -> Finding:
    """The container runtime starts a container."""
    words = shlex.split(node.container)
    try:
        output(*words)
    except Failure as failure:
        raise Failure(failure.found.removeprefix(f"{shlex.join(words)}: "), failure.do) from failure
    return Finding("it starts and ends well", node.container)
