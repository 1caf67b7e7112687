"""Shape what the nodes report about themselves into the lines of Slurm's files.

A node's report is what role slurm registers as ``__slurm_probe``: the output of ``slurmd -C``, then that of
files/cgroups.sh. slurmctld compares a registering node with what slurmd finds, so nothing else is asked.
GPUs, their cores and links come from the node's class, a file of slurm/classes/.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean

from minsky.gpus.classes import NONE, ClassError, NodeClass, load
from minsky.gpus.slurm import gres, hostlist, node_line

# States in which a node takes jobs or would, had a person not drained it: a drain is a decision, not a fault.
READY = re.compile(r"(idle|mixed|allocated|completing|planned|reserved|maint|drained|draining)[$-]?")
# Reasons for which slurmctld drains a node that registers with less than slurm.conf gives it.
MISSING = re.compile(r"Low |gres/\S+ count reported lower than configured")
TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}|UNLIMITED")
# What sacctmgr is asked of the partitions' QOS, in this order, and the least that an option of theirs may be.
QOS = ("MaxJobsPU", "MaxSubmitJobsPU", "MaxTRESPU", "MaxWall", "Flags")
LEAST = {"batch_max_gpus": 0, "batch_max_submit": 0, "interactive_max_gpus": 1, "interactive_max_hours": 1}

_load = cache(load)


def _short(host: str) -> str:
    return host.partition(".")[0]


def _report(host: str, hostvars: Mapping[str, Any]) -> str:
    return str(hostvars[host].get("__slurm_probe", {}).get("stdout", ""))


def _class(host: str, hostvars: Mapping[str, Any]) -> NodeClass | None:
    """The class of a node, which role cluster has found to be one; None for a node without GPUs."""
    name = str(hostvars[host].get("cluster_node_class") or NONE)
    return None if name == NONE else _load(name)


def _simulated(host: str, hostvars: Mapping[str, Any]) -> bool:
    return bool(boolean(hostvars[host].get("slurm_simulated_hardware", False)))


def _threads_there_can_be(node: NodeClass) -> str:
    *others, last = map(str, node.cpus.smt)
    return f"{', '.join(others)} or {last}" if others else last


def _is_of(node: NodeClass, sockets: int, cores: int, threads: int) -> bool:
    return (sockets, cores) == (node.cpus.sockets, node.cpus.cores) and threads in node.cpus.smt


class Hardware(NamedTuple):
    """A kind of node; nodes of a kind share a line of slurm.conf. Memory in MiB."""

    node_class: str
    simulated: bool
    cpus: int
    sockets: int
    cores: int
    threads: int
    memory: int

    def line(self, names: str) -> str:
        """The NodeName line."""
        memory = f"RealMemory={self.memory}"
        if self.node_class == NONE:
            return (
                f"NodeName={names} CPUs={self.cpus} Sockets={self.sockets} CoresPerSocket={self.cores} "
                f"ThreadsPerCore={self.threads} {memory}"
            )
        # a job without GPUs goes to other nodes first: those weigh 1
        line = f"{node_line(_load(self.node_class), names, self.threads)} {memory} Weight=2"
        return f"{line} Feature=simulated" if self.simulated else line

    def cpus_per_gpu(self) -> int:
        """The CPUs that a socket has for each of its GPUs, in whole cores."""
        sockets = [device.socket for device in _load(self.node_class).gpus]
        return max(1, self.cores // max(map(sockets.count, sockets))) * self.threads


def _hardware(host: str, hostvars: Mapping[str, Any]) -> Hardware:
    """What a node has, as it reports or as its class and its slurm_node_* variables state."""
    node, simulated = _class(host, hostvars), _simulated(host, hostvars)
    found = {key: int(value) for key, value in re.findall(r"\b(\w+)=(\d+)", _report(host, hostvars))}
    stated = int(hostvars[host].get("slurm_node_cpus", 0))
    most = node.cpus.sockets * node.cpus.cores * node.cpus.smt[-1] if node and simulated else 0
    cpus = stated or most or found.get("CPUs", 0)
    # A sixteenth stays with the system; rounded, so that equal machines with different kernels stay equal.
    usable = found.get("RealMemory", 0) * 15 // 16 // 256 * 256
    memory = int(hostvars[host].get("slurm_node_memory_mb", 0)) or usable
    if not (cpus and memory):
        raise AnsibleFilterError(
            f"Nothing is known of the hardware of {host}, and a slurm.conf without it would lose the node. "
            "Bring it up and run without --limit, or state its slurm_node_cpus and slurm_node_memory_mb."
        )
    topology = ("SocketsPerBoard", "CoresPerSocket", "ThreadsPerCore")
    sockets, cores, threads = there = tuple(found.get(key, 0) for key in topology)
    if node:
        if "CPUs" in found and not simulated and not _is_of(node, *there):
            raise AnsibleFilterError(
                f"{host} has {sockets} sockets with {cores} cores of {threads} threads (slurmd -C), and its "
                f"class {node.name} {node.cpus.sockets} sockets with {node.cpus.cores} cores of "
                f"{_threads_there_can_be(node)} threads: jobs would get cores far from their GPUs. Put the "
                "class that it is into cluster_node_class (on the node, python -m minsky.gpus diff --class "
                "NAME tells), or see why cores are offline: lscpu"
            )
        sockets, cores = node.cpus.sockets, node.cpus.cores
        threads = cpus // (sockets * cores)
    elif cpus != found.get("CPUs"):
        sockets, cores, threads = 1, cpus, 1
    return Hardware(node.name if node else NONE, simulated, cpus, sockets, cores, threads, memory)


def slurm_nodes(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the compute nodes for slurm.conf and gres.conf.

    Returns:
        ``lines``: one NodeName per kind of hardware; ``gres``: one line per GPU of each class;
        ``mem_per_cpu``, MiB: what every node can give with each of its CPUs, so that a job that asks for all
        CPUs of a node and says nothing of memory fits; ``cpus_per_gpu``: what every node can give with each
        of its GPUs from their own socket, 0 where no node has any; ``tres``: what the accounting counts;
        ``simulated``: whether a node poses as a class.
    """
    kinds: dict[Hardware, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for host in hosts:
        hardware = _hardware(host, hostvars)
        kinds.setdefault(hardware, []).append(_short(host))
        if hardware.node_class != NONE:
            classes.setdefault(hardware.node_class, []).append(_short(host))
    types = sorted({node.gpu.gres for name in classes if (node := _load(name)).gpu.names})
    return {
        "lines": [hardware.line(hostlist(names)) for hardware, names in kinds.items()],
        "gres": [
            line
            for name, names in classes.items()
            for line in gres(_load(name), hostlist(names), _load(name).cpus.smt[0])
        ],
        "mem_per_cpu": min(hardware.memory // hardware.cpus for hardware in kinds),
        "cpus_per_gpu": min(
            (hardware.cpus_per_gpu() for hardware in kinds if hardware.node_class != NONE), default=0
        ),
        "tres": ",".join(["gres/gpu", *(f"gres/gpu:{kind}" for kind in types)]),
        "simulated": any(hardware.simulated for hardware in kinds),
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


def slurm_limits(options: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """QOS of each partition that has one, and its limits as sacctmgr takes them; -1 is none."""
    number = {name: int(options[name]) for name in LEAST}
    days, hours = divmod(number["interactive_max_hours"], 24)
    return {
        "batch": {
            "MaxSubmitJobsPU": str(number["batch_max_submit"] or -1),
            "MaxTRESPU": f"gres/gpu={number['batch_max_gpus'] or -1}",
            "Flags": "DenyOnLimit",  # without it a job that can never run waits for ever
        },
        "interactive": {
            "MaxJobsPU": "1",
            "MaxTRESPU": f"gres/gpu={number['interactive_max_gpus']}",
            "MaxWall": (f"{days}-" if days else "") + f"{hours:02}:00:00",
            "Flags": "DenyOnLimit",
        },
    }


def _holds(shown: str, limit: str) -> bool:
    """Whether a field of ``sacctmgr show qos`` has a limit, beside those that a person may have added."""
    kind, _, number = limit.rpartition("=")
    entries = [entry for entry in shown.split(",") if entry]
    return limit in entries or (
        number == "-1" and kind not in [entry.rpartition("=")[0] for entry in entries]
    )


def slurm_qos(shown: str, options: Mapping[str, Any]) -> list[list[str]]:
    """Commands that give the partitions' QOS their limits; none where they have them.

    Args:
        shown: ``sacctmgr --noheader --parsable2 show qos format=Name,...``, with QOS after the name.
        options: the role's, without its name before them.
    """
    found = {
        name: dict(zip(QOS, fields, strict=True))
        for name, *fields in (line.split("|") for line in shown.splitlines())
    }
    commands = []
    for name, limits in slurm_limits(options).items():
        there = found.get(name, dict.fromkeys(QOS, ""))
        differing = [f"{key}={value}" for key, value in limits.items() if not _holds(there[key], value)]
        verb = ["modify", "qos", name, "set"] if name in found else ["add", "qos", name]
        if differing:
            commands.append(["sacctmgr", "--immediate", *verb, *differing])
    return commands


def slurm_refusals(
    groups: Mapping[str, list[str]],
    hostvars: Mapping[str, Any],
    max_time: object,
    options: Mapping[str, Any] | None = None,
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
    said += [
        f"slurm_{name} is {value}, with which nobody could submit there. Put at least {LEAST[name]}."
        for name, value in (options or {}).items()
        if int(value) < LEAST[name]
    ]
    for host in nodes:
        said += _class_refusals(host, hostvars)
        cpus, memory = (hostvars[host].get(f"slurm_node_{what}", 0) for what in ("cpus", "memory_mb"))
        if int(cpus) < 0 or 0 != int(memory) < 256:  # noqa: PLR2004
            said.append(
                f"{host} is said to have {cpus} CPUs and {memory} MiB for jobs. Put at least 1 and 256, or "
                "leave them out to let slurmd find them."
            )
    daemons = dict.fromkeys([*controllers, *nodes, *groups.get("slurmdbd", [])])
    names = [_short(host) for host in daemons]
    said += [
        f"{' and '.join(host for host in daemons if _short(host) == name)} are all {name} to Slurm, which "
        "knows machines by their short names. Rename all but one, in the inventory and by hostnamectl "
        "set-hostname."
        for name in dict.fromkeys(name for name in names if names.count(name) > 1)
    ]
    for host in daemons:
        name = _short(host)
        own = hostvars[host].get("ansible_facts", {}).get("hostname", name)
        if own != name:
            said.append(
                f"The inventory's {host} calls itself {own} and would not find its line in Slurm's files. "
                f"Rename the host in the inventory to {own}, or the machine: hostnamectl set-hostname {name}"
            )
    return said


def _class_refusals(host: str, hostvars: Mapping[str, Any]) -> list[str]:
    """Say what a node's variables state that its class does not have."""
    try:
        node, simulated = _class(host, hostvars), _simulated(host, hostvars)
    except ClassError:
        return []  # role cluster says why
    stated, memory = (int(hostvars[host].get(f"slurm_node_{what}", 0)) for what in ("cpus", "memory_mb"))
    said = []
    if node is None:
        if simulated:
            said.append(
                f"slurm_simulated_hardware is set for {host}, which has no GPUs to simulate: state the class "
                "that it poses as, for instance cluster_node_class: minsky-p100"
            )
        return said
    cores = node.cpus.sockets * node.cpus.cores
    if stated and stated not in [cores * threads for threads in node.cpus.smt]:
        allowed = ", ".join(str(cores * threads) for threads in node.cpus.smt)
        said.append(
            f"slurm_node_cpus is {stated} for {host}, but a node of class {node.name} has {cores} cores of "
            f"{_threads_there_can_be(node)} threads, without which its GPUs' cores are not known. Put one of "
            f"{allowed}, or leave it out."
        )
    if node.cpus.gpu_numa and not (memory or simulated):
        near = ",".join(map(str, node.cpus.numa))
        said.append(
            f"slurm_node_memory_mb is not set for {host}, but on a node of class {node.name} slurmd -C "
            "counts the memory of the GPUs, too, and jobs would be given what is not there. Put what "
            f"numactl -H says of nodes {near}, less a sixteenth."
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
            "slurm_qos": slurm_qos,
            "slurm_refusals": slurm_refusals,
        }
