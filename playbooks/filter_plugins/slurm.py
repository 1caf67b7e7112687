"""Shape what the nodes report about themselves into the lines of Slurm's files.

A node's report is what role slurm registers as ``__slurm_probe``: the output of ``slurmd -C``, then that of
files/cgroups.sh. slurmctld compares a registering node with what slurmd finds, so nothing else is asked.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from ansible.errors import AnsibleFilterError

# States in which a node takes jobs or would, had a person not drained it: a drain is a decision, not a fault.
READY = re.compile(r"(idle|mixed|allocated|completing|planned|reserved|maint|drained|draining)[$-]?")
# Reasons for which slurmctld drains a node that registers with less than slurm.conf gives it.
MISSING = re.compile(r"Low |gres/\S+ count reported lower than configured")
TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}|UNLIMITED")


def hostlist(names: Iterable[str]) -> str:
    """Fold names into Slurm's notation, in natural order: n8 n9 n10 login -> login,n[8-10]."""
    split = [re.fullmatch(r"(.*?)(\d*)", name) for name in names]
    parts = sorted(
        ((match[1], int(match[2] or -1), match[2]) for match in split if match),
        key=lambda part: (part[0], part[1], len(part[2])),
    )
    folded = []
    for prefix, group in groupby(parts, key=lambda part: part[0]):
        runs: list[list[str]] = []
        for _, number, digits in group:
            # n9 is followed by n10, n09 by n10 too, but n9 is not followed by n010
            if runs and runs[-1][-1] and digits == str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][-1])):
                runs[-1].append(digits)
            elif number < 0:
                folded.append(prefix)
            else:
                runs.append([digits])
        ranges = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
        if len(ranges) == 1 and "-" not in ranges[0]:
            folded.append(prefix + ranges[0])
        elif ranges:
            folded.append(f"{prefix}[{','.join(ranges)}]")
    return ",".join(folded)


def _short(host: str) -> str:
    return host.partition(".")[0]


def _report(host: str, hostvars: Mapping[str, Any]) -> str:
    return str(hostvars[host].get("__slurm_probe", {}).get("stdout", ""))


def _definition(host: str, hostvars: Mapping[str, Any]) -> dict[str, int]:
    """CPUs, topology and memory (MiB) of a node, as it reports or as its slurm_node_* variables state."""
    found = {key: int(value) for key, value in re.findall(r"\b(\w+)=(\d+)", _report(host, hostvars))}
    # A sixteenth stays with the system; rounded, so that equal machines with different kernels stay equal.
    usable = found.get("RealMemory", 0) * 15 // 16 // 256 * 256
    cpus = int(hostvars[host].get("slurm_node_cpus", 0)) or found.get("CPUs", 0)
    memory = int(hostvars[host].get("slurm_node_memory_mb", 0)) or usable
    if not (cpus and memory):
        raise AnsibleFilterError(
            f"Nothing is known of the hardware of {host}, and a slurm.conf without it would lose the node. "
            "Bring it up and run without --limit, or state its slurm_node_cpus and slurm_node_memory_mb."
        )
    topology = ("SocketsPerBoard", "CoresPerSocket", "ThreadsPerCore")
    sockets, cores, threads = (found[key] for key in topology) if cpus == found.get("CPUs") else (1, cpus, 1)
    return {
        "CPUs": cpus,
        "Sockets": sockets,
        "CoresPerSocket": cores,
        "ThreadsPerCore": threads,
        "RealMemory": memory,
    }


def slurm_nodes(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the compute nodes: ``lines`` (one NodeName per kind of hardware) and ``mem_per_cpu`` (MiB).

    mem_per_cpu is what every node can give with each of its CPUs: a job that asks for all CPUs of a node and
    says nothing of memory fits.
    """
    kinds: dict[str, list[str]] = {}
    per_cpu = []
    for host in hosts:
        definition = _definition(host, hostvars)
        per_cpu.append(definition["RealMemory"] // definition["CPUs"])
        line = " ".join(f"{key}={value}" for key, value in definition.items())
        kinds.setdefault(line, []).append(_short(host))
    return {
        "lines": [f"NodeName={hostlist(names)} {line}" for line, names in kinds.items()],
        "mem_per_cpu": min(per_cpu),
    }


def slurm_cgroup(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Choose Slurm's plugins from what the nodes' cgroups allow.

    Slurm has one ProctrackType for all nodes: a single one without writable cgroups costs the whole cluster
    the enforcement, so ``summary`` names it and its reason. ``unknown`` names those that reported nothing,
    for the user and not for slurm.conf, which would change with every run that leaves a node out.
    """
    pattern = re.compile(r"^cgroup=(\w+)(?: swap=(\w+))? ?(.*)$", re.MULTILINE)
    reports = {host: pattern.search(_report(host, hostvars)) for host in hosts}
    found = {host: match for host, match in reports.items() if match}
    if not found:
        raise AnsibleFilterError(
            "No compute node was asked what its cgroups allow, so Slurm's limits cannot be chosen. "
            "Bring at least one up and run without --limit."
        )
    without = [f"{host}: {match[3]}" for host, match in found.items() if match[1] == "none"]
    versions = sorted({match[1] for match in found.values()})
    silent = hostlist(_short(host) for host, match in reports.items() if not match)
    unknown = f"; nothing is known of {silent}, which did not report" if silent else ""
    limits = "limits on cores, memory and devices are"
    if without:
        return {
            "enforced": False,
            "plugin": "disabled",
            "proctrack": "proctrack/linuxproc",
            "task": "task/affinity",
            "gather": "jobacct_gather/linux",
            "summary": f"{limits} NOT enforced ({'; '.join(without)})",
            "unknown": unknown,
        }
    shown = " and ".join(versions).replace("v2", "v2, unproven")  # no cluster with v2 was tested yet
    return {
        "enforced": True,
        "swap": "yes" if all(match[2] == "yes" for match in found.values()) else "no",
        "plugin": f"cgroup/{versions[0]}" if len(versions) == 1 else "autodetect",
        "proctrack": "proctrack/cgroup",
        "task": "task/cgroup,task/affinity",
        "gather": "jobacct_gather/cgroup",
        "summary": f"{limits} enforced (cgroup {shown})",
        "unknown": unknown,
    }


def _states(sinfo: str) -> dict[str, list[str]]:
    """Split ``sinfo -hN -o "%N %T %u %E"`` into name: [state, who gave the reason, reason]."""
    return {name: rest for name, *rest in (line.split(maxsplit=3) for line in sinfo.splitlines()) if rest}


def slurm_unready(sinfo: str, hosts: Iterable[str]) -> list[str]:
    """List the hosts that would take no jobs as "name state"."""
    states = _states(sinfo)
    found = {name: states.get(name, ["unknown"])[0] for name in map(_short, hosts)}
    return [f"{name} {state}" for name, state in found.items() if not READY.fullmatch(state)]


def slurm_mended(sinfo: str) -> str:
    """List, in Slurm's notation, the nodes that Slurm itself drained for hardware that they have by now.

    While it is still missing their state is "inval"; afterwards the drain stays. One that a person ordered is
    never listed.
    """
    return hostlist(
        name
        for name, (state, who, reason) in _states(sinfo).items()
        if state.startswith("drain") and who.startswith("slurm") and MISSING.match(reason)
    )


def slurm_refusals(
    groups: Mapping[str, list[str]], hostvars: Mapping[str, Any], max_time: object
) -> list[str]:
    """Say what of an inventory Slurm cannot be made of: a sentence each.

    A daemon finds its line by its machine's own host name, which is compared where facts were gathered.
    """
    said = []
    controllers, nodes = groups.get("slurm_controller", []), groups.get("slurm_node", [])
    if len(controllers) != 1 or not nodes:
        said.append(
            f"Group slurm_controller holds {len(controllers)} hosts and slurm_node {len(nodes)}, but a "
            "cluster has one controller and at least one node. Correct the groups in the inventory."
        )
    if not (isinstance(max_time, str) and TIME.fullmatch(max_time)):
        said.append(
            f"slurm_max_time is {max_time}, which is no time limit in Slurm's notation. Quote it (YAML reads "
            '1:30:00 as 5400), for instance slurm_max_time: "1-12:00:00"'
        )
    for host in nodes:
        cpus, memory = (hostvars[host].get(f"slurm_node_{what}", 0) for what in ("cpus", "memory_mb"))
        if int(cpus) < 0 or 0 != int(memory) < 256:  # noqa: PLR2004
            said.append(
                f"{host} is said to have {cpus} CPUs and {memory} MiB for jobs. Put at least 1 and 256, or "
                "leave them out to let slurmd find them."
            )
    for host in dict.fromkeys([*controllers, *nodes, *groups.get("slurmdbd", [])]):
        name = _short(host)
        own = hostvars[host].get("ansible_facts", {}).get("hostname", name)
        if own != name:
            said.append(
                f"The inventory's {host} calls itself {own} and would not find its line in Slurm's files. "
                f"Rename the host in the inventory to {own}, or the machine: hostnamectl set-hostname {name}"
            )
    return said


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {
            "slurm_nodes": slurm_nodes,
            "slurm_cgroup": slurm_cgroup,
            "slurm_unready": slurm_unready,
            "slurm_mended": slurm_mended,
            "slurm_refusals": slurm_refusals,
        }
