"""The machine underneath: whether the virtual cluster fits on it, and its Docker daemon."""

import argparse
import functools
import ipaddress
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import docker
from docker.errors import DockerException

from minsky import system
from minsky.errors import MinskyError, speak_plainly
from minsky.paths import CACHE, ROOT, STATE

CHECKOUT_LABEL = "minsky.checkout"
NETWORK = "minsky"
SUBNET = ipaddress.IPv4Network("172.31.240.0/24")
GIB = 1024**3
NODE_MEMORY_MB = 1024  # slurmd, glusterd, a brick and its mount take 300 MB, one rank of the CNN 600
GUEST_SHARE = 0.8  # of the machine's memory; playbooks/virtual/up.yml deals it out
RUN = Path("/var/run")
DATA_ROOT = Path("/var/lib/docker")
STARTED = STATE / "dockerd.pid"  # exists while a daemon runs that this checkout started


# -- what the machine must have ---------------------------------------------------------------------


def refuse_shortage(needs: Iterable[tuple[Path, float, str]]) -> None:
    """Raise unless every file system has room for all that is to be put on it.

    Args:
        needs: (directory, GiB, what it is for); directories on one file system add up, and one that
            does not exist yet stands for its nearest parent.
    """
    together: dict[int, list[tuple[Path, float, str]]] = {}
    for path, gib, purpose in needs:
        there = next(p for p in [path, *path.parents] if p.exists())
        together.setdefault(there.stat().st_dev, []).append((there, gib, f"{purpose} in {path}"))
    for wants in together.values():
        need, free = sum(gib for _, gib, _ in wants), shutil.disk_usage(wants[0][0]).free / GIB
        if need > free:
            raise MinskyError(
                f"{need:.0f} GiB are needed for {' and '.join(purpose for *_, purpose in wants)}, but only "
                f"{free:.1f} GiB are free there. Free some, or point MINSKY_CACHE at a larger disk, and "
                "type the same command again; nothing has been built."
            )


def refuse_memory(nodes: int, total_mb: int) -> None:
    """Raise where *nodes* compute nodes and control would get less than NODE_MEMORY_MB each."""
    fit = int(total_mb * GUEST_SHARE / NODE_MEMORY_MB) - 1
    if nodes > fit:
        advice = f"type for instance: make cluster NODES={min(fit, 3)}" if fit > 0 else "take a larger one"
        raise MinskyError(
            f"This machine has {total_mb} MiB of memory, and {nodes} compute nodes and control need "
            f"{NODE_MEMORY_MB} MiB each of the {GUEST_SHARE:.0%} that guests may have: {advice}."
        )


def total_memory_mb() -> int:
    """Memory of this machine in MiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2


def routes(table: str) -> list[tuple[ipaddress.IPv4Network, str]]:
    """Read the text of /proc/net/route: (network, interface) of every route but the default one."""
    found = []
    for line in table.splitlines()[1:]:
        interface, destination, *_, mask = line.split()[:8]
        address, netmask = (socket.inet_ntoa(struct.pack("=L", int(x, 16))) for x in (destination, mask))
        found.append((ipaddress.IPv4Network((address, netmask)), interface))
    return [(network, interface) for network, interface in found if network.prefixlen]


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


def preflight(nodes: int, *, new: int, image_missing: bool) -> None:
    """Refuse a machine on which the virtual cluster cannot stand; change nothing.

    Args:
        nodes: compute nodes wanted.
        new: virtual machines that are still to be made.
        image_missing: whether images are still to be built, which takes most of the disk space.
    """
    system.refuse_cluster_node()
    refuse_memory(nodes, total_memory_mb())
    engine = daemon()
    root = Path(engine.info()["DockerRootDir"]) if engine else DATA_ROOT
    wants = [(root, 1 + 0.7 * new, f"{new} virtual machines")]
    if image_missing:
        wants += [(root, 11, "building images"), (CACHE, 2, "images")]
    refuse_shortage(wants)
    ours: list[str] = []
    if engine:
        networks = engine.networks.list()
        refuse_foreign({str(n.name): n.attrs.get("Labels") or {} for n in networks if n.name == NETWORK})
        ours = ["br-" + str(n.id)[:12] for n in networks if n.name == NETWORK]
        found = engine.containers.list(all=True, filters={"name": "^/?minsky-(control|node[0-9]+)$"})
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


# -- Docker -----------------------------------------------------------------------------------------


def daemon(timeout: int = 10) -> docker.DockerClient | None:
    """A client of the Docker daemon that DOCKER_HOST or the default socket names, or None if none answers.

    Raises:
        MinskyError: a daemon is there but this user may not speak to it, or it is not on this machine.
    """
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        raise MinskyError(
            f"DOCKER_HOST is {host}, but the virtual nodes are reached over a bridge of this machine: unset "
            "it, or run the same command on the machine that it names."
        )
    path = Path(host.removeprefix("unix://") or RUN / "docker.sock")
    if path.exists() and not os.access(path, os.W_OK):
        raise MinskyError(
            f"{path} is there, but this user may not write to it: type the same command as root, or "
            "`sudo usermod -aG docker $USER`, log in again and repeat it."
        )
    try:
        engine = docker.DockerClient(base_url=f"unix://{path}", timeout=timeout)
        engine.ping()
    except (DockerException, OSError):  # requests' exceptions are OSErrors
        return None
    engine.api.timeout = 120
    return engine


@functools.cache
def client() -> docker.DockerClient:
    """The Docker daemon's client; a MinskyError where none answers."""
    if found := daemon():
        return found
    raise MinskyError("No Docker daemon answers. `make cluster` starts one.")


def ensure_docker() -> None:
    """See to it that a Docker daemon answers: install and start Debian's where none does.

    Raises:
        MinskyError: where that is not to be done here: no Debian, no root, a node of a cluster.
    """
    if daemon():
        return
    if host := os.environ.get("DOCKER_HOST"):
        raise MinskyError(f"DOCKER_HOST is {host}, and no daemon answers there: start that one, or unset it.")
    system.refuse_cluster_node()
    # Not the user's PATH alone, which on Debian lacks sbin: a Docker that is here must not be replaced.
    sbin = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = [
        p
        for t, p in {"dockerd": "docker.io", "iptables": "iptables"}.items()
        if not shutil.which(t, path=sbin)
    ]
    if missing:
        # iptables is only recommended by docker.io, but its bridges do not come up without it
        system.apt_install(*missing, why="no Docker daemon answers, and what one needs is not installed")
    if Path("/run/systemd/system").exists() and system.processes().get(1) == "systemd":
        print("minsky: no Docker daemon answers: starting docker.service", flush=True)
        subprocess.run([*root_prefix(), "systemctl", "start", "docker"], check=False)
        if not daemon():
            raise MinskyError("docker.service does not come up: `journalctl -eu docker` shows why.")
    else:
        start_docker()
        STARTED.write_text((RUN / "docker.pid").read_text().strip())
    client.cache_clear()


def root_prefix() -> list[str]:
    """What to put before a command on Docker's daemon itself; a MinskyError without root."""
    prefix = system.as_root()
    if prefix is None:
        raise MinskyError("The Docker daemon is root's to start and to stop: type the same command as root.")
    return prefix


def start_docker(*options: str, run: Path = RUN, deadline: float = 90) -> None:
    """Start dockerd without an init system, unless one is coming up, and wait until it answers.

    Args:
        options: for dockerd.
        run: directory of its pid file and socket.
        deadline: seconds to wait.

    Raises:
        MinskyError: it does not come up, with the last lines of its log.
    """
    log = STATE / "log" / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if stale := stale_pid_files(run):
        subprocess.run([*root_prefix(), "rm", "-f", *stale], check=True)
    process = None
    if not (run / "docker.pid").exists():
        print(f"minsky: no Docker daemon answers: starting dockerd, its log is {log}", flush=True)
        with log.open("wb") as output:
            # A session of its own, so that neither Ctrl-C nor a closed terminal ends the cluster.
            process = subprocess.Popen(
                [*root_prefix(), "dockerd", *options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
            )  # fmt: skip
    end = time.monotonic() + deadline
    while True:
        try:
            docker.DockerClient(base_url=f"unix://{run}/docker.sock", timeout=5).ping()
            break
        except (DockerException, OSError):
            if (process and process.poll() is not None) or time.monotonic() > end:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-6:]) if process else ""
                raise MinskyError(f"dockerd does not come up, see {log}:\n{tail}") from None
            time.sleep(0.2)


def stale_pid_files(run: Path = RUN) -> list[Path]:
    """Pid files of killed daemons that would stop a new one: their pid is dead or another program's."""
    alive, stale = system.processes(), []
    for path, name in (
        (run / "docker.pid", "dockerd"),
        (run / "docker/containerd/containerd.pid", "containerd"),
    ):
        try:
            if alive.get(int(path.read_text().strip() or 0)) != name:
                stale.append(path)
        except FileNotFoundError:
            continue
        except ValueError:
            stale.append(path)
    return stale


def stop_docker(deadline: float = 60) -> bool:
    """Stop the daemon that this checkout started; False where it started none, or that one is gone."""
    pid = int(STARTED.read_text()) if STARTED.exists() else 0
    STARTED.unlink(missing_ok=True)
    if system.processes().get(pid) != "dockerd":
        return False
    subprocess.run([*root_prefix(), "kill", f"-{signal.SIGTERM:d}", str(pid)], check=True)
    end = time.monotonic() + deadline
    while system.processes().get(pid) == "dockerd":
        if time.monotonic() > end:
            raise MinskyError(f"dockerd (pid {pid}) did not end within {deadline:.0f} s.")
        time.sleep(0.2)
    client.cache_clear()
    return True


def main(argv: list[str] | None = None) -> None:
    """Start or stop Docker from the shell."""
    parser = argparse.ArgumentParser(prog="python -m minsky.host", description=__doc__)
    parser.add_argument(
        "verb", choices=["start", "stop"],
        help="start: see to it that a Docker daemon answers; stop: end the one that this checkout started",
    )  # fmt: skip
    if parser.parse_args(argv).verb == "start":
        ensure_docker()
    elif stop_docker():
        print("minsky: the Docker daemon started by this checkout has ended")


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
