"""What the toolkit asks of the operating system before any package is installed: standard library only."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from minsky.errors import MinskyError

Need = tuple[Path, float, str]  # directory, GB (10^9 bytes) that it must have room for, what they are for
CLUSTER_DAEMONS = frozenset({"slurmd", "mmfsd"})  # mmfsd is GPFS (Storage Scale)


def processes(proc: Path = Path("/proc")) -> dict[int, str]:
    """Living processes of this PID namespace, {pid: name}, without zombies and those inside containers."""
    found: dict[int, str] = {}
    for status in proc.glob("[0-9]*/status"):
        try:
            fields = dict(re.findall(r"^(\w+):\t(.*)$", status.read_text(), re.MULTILINE))
        except OSError:  # it ended meanwhile
            continue
        # One number in NSpid: it lives in no namespace below this one, as a virtual node's slurmd does.
        if not fields["State"].startswith(("Z", "X")) and len(fields.get("NSpid", "1").split()) == 1:
            found[int(status.parent.name)] = fields["Name"]
    return found


def refuse_cluster_node() -> None:
    """Raise where this machine already serves a cluster: nothing may be installed beside its daemons."""
    if names := sorted(CLUSTER_DAEMONS & set(processes().values())):
        raise MinskyError(
            f"{' and '.join(names)} runs here: this machine is a node of a cluster, and nothing is installed "
            "or started beside it. Run the same command on a machine of your own, or a virtual one."
        )


def refuse_shortage(needs: Iterable[Need]) -> None:
    """Raise unless every file system has room for all that is to be put on it.

    Args:
        needs: directories on one file system add up, and one that does not exist yet stands for its
            nearest parent.
    """
    together: dict[int, list[Need]] = {}
    for path, gb, purpose in needs:
        there = next(p for p in [path, *path.parents] if p.exists())
        together.setdefault(there.stat().st_dev, []).append((there, gb, f"{purpose} in {path}"))
    for wants in together.values():
        need, free = sum(gb for _, gb, _ in wants), shutil.disk_usage(wants[0][0]).free / 1e9
        if need > free:
            raise MinskyError(
                f"{need:.1f} GB are needed for {' and '.join(purpose for *_, purpose in wants)}, but only "
                f"{free:.1f} GB are free there. Make room (`docker system df` shows what Docker holds), or "
                "point MINSKY_CACHE at a larger disk, and type the same command again."
            )


def is_debian(os_release: Path = Path("/etc/os-release")) -> bool:
    """Debian, Ubuntu or something derived from them."""
    if not os_release.exists():
        return False
    names = re.findall(r"^ID(?:_LIKE)?=(.*)$", os_release.read_text(), re.MULTILINE)
    return bool({"debian", "ubuntu"} & set(" ".join(names).replace('"', "").split()))


def as_root() -> list[str] | None:
    """What to put before a command that needs root: nothing, sudo, or None where neither is to be had."""
    if os.geteuid() == 0:
        return []
    asks = (
        [] if sys.stdin and sys.stdin.isatty() else ["-n"]
    )  # without a terminal a password prompt would hang
    if not shutil.which("sudo") or subprocess.run(["sudo", *asks, "-v"], check=False).returncode:
        return None
    return ["sudo", *asks]


def apt_install(*packages: str, why: str) -> None:
    """Install Debian packages, after a line that says so.

    Args:
        packages: names of packages.
        why: what is missing, as the beginning of a sentence.

    Raises:
        MinskyError: on another distribution, without root, on a node of a cluster, or where apt-get fails.
    """
    refuse_cluster_node()
    names = " ".join(packages)
    prefix = as_root() if is_debian() else None
    if prefix is None:
        raise MinskyError(
            f"{why}, and it is installed for you only on Debian or Ubuntu, as root or with sudo. "
            f"Install what corresponds to Debian's {names} yourself, then type the same command again."
        )
    print(f"minsky: {why}: installing {names} with apt-get", flush=True)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for command in (
        ["dpkg", "--configure", "-a"],  # an installation that was killed half-way refuses every later one
        [*apt, "update"],
        [*apt, "install", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            [*prefix, *command],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise MinskyError(
                f"`{' '.join(command)}` failed, so {names} could not be installed. Mend what its last lines "
                "say (where they name the network, /etc/apt/sources.list or the proxy), then type the same "
                "command again:\n" + "\n".join(done.stdout.splitlines()[-8:])
            )


def find(program: str) -> str | None:
    """Where *program* is: on the PATH, or in sbin, which an ordinary user's PATH lacks on Debian."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")


def need_program(name: str, package: str) -> None:
    """Install Debian's *package* unless the program *name* is here."""
    if not find(name):
        apt_install(package, why=f"the program {name} is missing")
