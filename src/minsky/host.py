"""The machine underneath: whether the virtual cluster fits on it."""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from minsky import dockerd, system
from minsky.errors import MinskyError
from minsky.paths import ROOT
from minsky.virtual import (
    CHECKOUT_LABEL,
    DEFAULT_NODES,
    GUEST_SHARE,
    NETWORK,
    NODE_LEAST_MB,
    PREFIX,
    SUBNET,
)


def refuse_memory(nodes: int, total_mb: int) -> None:
    """Raise where *nodes* compute nodes and control would get less than NODE_LEAST_MB each."""
    fit = int(total_mb * GUEST_SHARE / NODE_LEAST_MB) - 1
    if nodes > fit:
        advice = (
            f"type for instance: make cluster NODES={min(fit, DEFAULT_NODES)}"
            if fit > 0
            else "take a larger one"
        )
        raise MinskyError(
            f"This machine has {total_mb} MiB of memory, and {nodes} compute nodes and control need "
            f"{NODE_LEAST_MB} MiB each of the {GUEST_SHARE:.0%} that guests may have: {advice}."
        )


def total_memory_mb() -> int:
    """Memory of this machine in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2


def routes(table: str) -> list[tuple[ipaddress.IPv4Network, str]]:
    """Read the text of /proc/net/route: (network, interface) of every route but those to everywhere.

    A full-tunnel VPN has two, to half of all addresses each, beside which a smaller network finds its way.
    """
    found = []
    for line in table.splitlines()[1:]:
        interface, destination, *_, mask = line.split()[:8]
        address, netmask = (socket.inet_ntoa(struct.pack("=L", int(x, 16))) for x in (destination, mask))
        found.append((ipaddress.IPv4Network((address, netmask)), interface))
    return [(network, interface) for network, interface in found if network.prefixlen > 1]


def refuse_taken_subnet(taken: Iterable[tuple[ipaddress.IPv4Network, str]]) -> None:
    """Raise where one of (network, owner in words) overlaps the cluster's own subnet."""
    for network, owner in taken:
        if network.overlaps(SUBNET):
            raise MinskyError(
                f"The virtual cluster's network is {SUBNET}, but {owner} already has {network} on this "
                "machine. Remove that first (`ip route` and `docker network ls` show it), then type the "
                "same command again."
            )


def refuse_foreign(objects: Mapping[str, Mapping[str, str]], checkout: Path = ROOT) -> None:
    """Raise where a container or network with one of our names is not this checkout's.

    Args:
        objects: labels by name, of containers and networks that exist.
        checkout: this checkout.
    """
    for name, labels in objects.items():
        owner = labels.get(CHECKOUT_LABEL)
        if owner == str(checkout):
            continue
        cure = f"docker rm -fv {name}" if name != NETWORK else f"docker network rm {name}"
        if owner and Path(owner, "Makefile").exists():
            cure = f"make -C {owner} down"
        raise MinskyError(
            f"`{name}` already exists in Docker and belongs to {owner or 'something else'}, not to "
            f"{checkout}: one virtual cluster fits on a machine. Remove that one first: {cure}"
        )


def refuse_missing_kernel(root: Path = Path("/")) -> None:
    """Raise where the kernel lacks, or forbids, what users' containers need inside the nodes.

    Args:
        root: directory below which dev/ and proc/ lie.
    """
    if not (root / "dev/fuse").exists():
        raise MinskyError(
            f"{root / 'dev/fuse'} is missing, through which the nodes mount the shared file system and the "
            "images. Type `modprobe fuse` as root, or take a kernel that has it."
        )
    for sysctl, forbids, allows in (
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's own kernels
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu, since 23.10
    ):
        path = root / "proc/sys" / sysctl.replace(".", "/")
        if path.exists() and path.read_text().strip() == forbids:
            raise MinskyError(
                f"sysctl {sysctl} is {forbids} on this machine, so ordinary users may not start containers, "
                "in the nodes either, and the labs run in containers. Type as root: "
                f"sysctl -w {sysctl}={allows}"
            )


def preflight(nodes: int, *, new: int, needs: Iterable[system.Need]) -> None:
    """Refuse a machine on which the virtual cluster cannot stand; change nothing.

    Args:
        nodes: compute nodes wanted.
        new: virtual machines that are still to be made.
        needs: disk space for the images that are still to be made.
    """
    system.refuse_cluster_node()
    refuse_missing_kernel()
    refuse_memory(nodes, total_memory_mb())
    system.refuse_shortage([(dockerd.root(), 1 + 0.75 * new, f"{new} virtual machines"), *needs])
    ours: list[str] = []
    if engine := dockerd.daemon():
        networks = engine.networks.list()
        refuse_foreign({str(n.name): n.attrs.get("Labels") or {} for n in networks if n.name == NETWORK})
        ours = ["br-" + str(n.id)[:12] for n in networks if n.name == NETWORK]
        found = engine.containers.list(all=True, filters={"name": f"^/?{PREFIX}(control|node[0-9]+)$"})
        refuse_foreign({str(c.name): c.labels for c in found})
        refuse_taken_subnet(
            (ipaddress.IPv4Network(part["Subnet"]), f"Docker's network `{n.name}`")
            for n in networks
            if n.name != NETWORK
            for part in n.attrs["IPAM"]["Config"] or []
            if "." in part["Subnet"]
        )
    table = routes(Path("/proc/net/route").read_text())
    refuse_taken_subnet((network, f"interface {name}") for network, name in table if name not in ours)
