"""What a virtual cluster could leave behind on its host: recorded before, compared after."""

import json
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from minsky import system
from minsky.dockerd import client
from minsky.errors import MinskyError
from minsky.paths import STATE
from minsky.stages import console

Snapshot = dict[str, dict[str, str]]

KEPT = STATE / "host-before.json"
USED, EMPTY = "with processes", "without processes"

# What changes by itself, whoever does what: each with its reason.
VOLATILE_SYSCTLS = re.compile(
    r"fs/(dentry-state|inode-(nr|state)|file-nr|aio-nr|quota/.*)"  # counters of objects in use
    r"|kernel/(ns_last_pid|pty/nr|keys/.*)"  # counters of processes, terminals and keys
    r"|kernel/random/(uuid|entropy_avail)"  # another value at every reading
    r"|kernel/perf_event_max_sample_rate|kernel/perf_cpu_time_max_percent"  # lowered by the kernel under load
    r"|net/netfilter/nf_conntrack_count"  # open connections
    r"|net/ipv[46]/(conf|neigh)/(?!all/|default/).*"  # named after interfaces, which are compared themselves
)
# `docker` and `docker/buildkit` are the parents that dockerd makes for its first container, and keeps.
# Below the hierarchy's name on v1; v2 has one hierarchy and no such name.
DOCKERS_OWN_CGROUPS = re.compile(r"([^/]*/)?(docker(/buildkit)?|system\.slice/docker[^/]*\.(service|socket))")
# On a host with systemd: services and sessions of the host's own, which start and end as they like.
HOST_SYSTEMD_CGROUPS = re.compile(
    r"([^/]*/)?(user\.slice/.*|system\.slice/(?!docker-)[^/]*\.(service|mount|scope|socket)(/.*)?)"
)
# Docker's namespace for containers on the host's network, made at the first build; sessions of users.
PASSING_MOUNTS = re.compile(r"/(var/)?run/docker/netns/default|/run/(snapd|user)/.*")


def keep() -> None:
    """Store what this host is like; where that cannot be read, a line says so, and the cluster boots."""
    KEPT.unlink(missing_ok=True)
    try:
        KEPT.write_text(json.dumps(snapshot_host()))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to have no cluster
        console.print(f"  whether `make down` leaves this machine as it was cannot be tested later: {error}")


def snapshot_host() -> Snapshot:
    """Record sysctls, cgroups, packet filter rules, interfaces, routes, mounts and CPU settings of this host.

    Docker runs by then: what its daemon sets up is not the cluster's doing.

    Returns:
        {section: {name: value}}. The section "other container" names running containers that are not ours:
        where it changes, somebody else is at work in Docker and two snapshots cannot be compared.

    Raises:
        MinskyError: no Docker daemon, no tool to read packet filter rules with, or no root to run it.
    """
    others = {str(c.id): str(c.name) for c in client().containers.list() if "minsky" not in c.labels}
    return {
        "other container": others,
        "sysctl": dict(_sysctls()),
        "cgroup": {name: value for name, value in _cgroups() if not any(i in name for i in others)},
        "rule": dict(_rules()),
        "interface": dict(_interfaces()),
        "route": dict.fromkeys(Path("/proc/net/route").read_text().splitlines()[1:], "present"),
        "mount": dict(_mounts()),
        "setting": dict([*_settings(), *_cgroup_roots()]),
    }


def changes(before: Snapshot, after: Snapshot, ours: Collection[str] = ()) -> list[str]:
    """Say in sentences what differs between two snapshots; empty where nothing does.

    Args:
        before: the first.
        after: the second.
        ours: ids of containers that were removed in between.
    """
    found = []
    for section, old in before.items():
        new = after[section]
        if section == "cgroup":
            # A cgroup with processes is another program's, unless it is named after a container of ours. One
            # that went was another program's too: a guest sees only what lies below its own.
            found += [
                f"cgroup {name} is left behind {new[name]}"
                for name in sorted(new.keys() - old.keys())
                if new[name] == EMPTY or any(container in name for container in ours)
            ]
            continue
        found += [f"{section} {name} is gone (was {old[name]})" for name in sorted(old.keys() - new.keys())]
        if section != "sysctl":  # a new sysctl comes with a module that the kernel loads on demand
            found += [f"{section} {name} is new ({new[name]})" for name in sorted(new.keys() - old.keys())]
        found += [
            f"{section} {name} was {old[name]} and is {new[name]}"
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ]
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # write-only, or gone meanwhile
        return None


def _sysctls() -> Iterator[tuple[str, str]]:
    for directory, _, files in os.walk("/proc/sys"):
        for file in files:
            path = Path(directory, file)
            name = str(path.relative_to("/proc/sys"))
            if not VOLATILE_SYSCTLS.fullmatch(name) and (value := _text(path)) is not None:
                yield name, value


def _cgroups() -> Iterator[tuple[str, str]]:
    """Every cgroup, and whether it or one below it has processes."""
    root = Path("/sys/fs/cgroup")
    passing = [DOCKERS_OWN_CGROUPS, *([HOST_SYSTEMD_CGROUPS] if Path("/run/systemd/system").exists() else [])]
    used: set[Path] = set()
    for directory, children, _ in os.walk(root, topdown=False):  # unlike rglob it bears with what vanishes
        path = Path(directory)
        if _text(path / "cgroup.procs") or any(path / child in used for child in children):
            used.add(path)
        name = str(path.relative_to(root))
        if path != root and not any(pattern.fullmatch(name) for pattern in passing):
            yield name, USED if path in used else EMPTY


def _cgroup_roots() -> Iterator[tuple[str, str]]:
    """What a guest's systemd with the host's tree in hand would set at the roots."""
    root = Path("/sys/fs/cgroup")
    for file in ("release_agent", "notify_on_release", "cgroup.subtree_control"):
        for path in root.glob(f"*/{file}"):
            yield str(path.relative_to(root)), _text(path) or "nothing"


def _rules() -> Iterator[tuple[str, str]]:
    """Packet filter rules without their counters."""
    commands = [["iptables-save"], ["ip6tables-save"], ["nft", "list", "ruleset"]]
    there = [[path, *rest] for name, *rest in commands if (path := system.find(name))]
    if not there:
        raise MinskyError(
            "Neither iptables-save nor nft is here to read packet filter rules: install iptables."
        )
    for command in there:
        # never a password prompt in the middle of a boot, and never long
        words = [*([] if os.geteuid() == 0 else ["sudo", "-n"]), *command]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=5
        )
        if done.returncode:
            raise MinskyError(f"`{' '.join(words)}` failed: {done.stderr.strip()}")
        table = ""
        for line in done.stdout.splitlines():
            rule = re.sub(r"\[\d+:\d+\]|counter packets \d+ bytes \d+", "", line).strip()
            if rule.startswith(("*", "table ", "chain ")):
                table = rule
            if rule and not rule.startswith("#"):
                yield f"{command[0]} {table}: {rule}", "present"


def _interfaces() -> Iterator[tuple[str, str]]:
    for path in Path("/sys/class/net").iterdir():
        yield path.name, " ".join(f"{key}={_text(path / key)}" for key in ("flags", "mtu", "address"))


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        _, _, _, source, where, options, *_ = left.split()
        if not PASSING_MOUNTS.fullmatch(where):
            yield where, f"{right.split()[0]} {source} {options}"


def _settings() -> Iterator[tuple[str, str]]:
    for pattern in (
        "devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "kernel/mm/transparent_hugepage/enabled",
    ):
        for path in Path("/sys").glob(pattern):
            yield str(path), _text(path) or ""
