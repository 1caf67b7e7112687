"""A class: who is in it, what cannot be, and what turns what Slurm has into what it should have.

Options are those of role workshop without its name before them. What the machines say is text, as read:
``getent`` is [passwd, group] of one host, ``slurm`` what the controller says of QOS, associations and
reservations (nothing on other hosts).
"""

import re
import shlex
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

Options = Mapping[str, Any]

USERS = 1000  # uids below are the distribution's
LEAST = dict.fromkeys(("students", "nodes", "max_jobs", "max_submit", "max_minutes"), 1) | dict.fromkeys(
    ("hours", "max_gpus"), 0
)
MOST = 999  # students: their names end in two digits, or three


def _numbers(options: Options) -> dict[str, int]:
    return {name: int(options[name]) for name in ("gid", *LEAST)}


def _last(options: Options) -> date:
    return date.fromisoformat(str(options["ends"]))


def _span(minutes: int) -> str:
    """Minutes in Slurm's notation: 90 is 01:30:00, 1500 is 1-01:00:00."""
    days, rest = divmod(minutes, 24 * 60)
    return (f"{days}-" if days else "") + f"{rest // 60:02}:{rest % 60:02}:00"


def workshop_refusals(options: Options, today: str, nodes: int) -> list[str]:
    """Say what of the options cannot be: a sentence each.

    Args:
        options: the role's.
        today: the cluster's date.
        nodes: how many compute nodes the cluster has.
    """
    said, number = [], _numbers(options)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,20}", str(options["prefix"])):
        said.append(
            f"workshop_prefix is {options['prefix']!r}, but login names begin with it: small letters, then "
            "digits and - too, 21 in all. Put for instance class."
        )
    if number["gid"] < USERS:
        said.append(f"workshop_gid is {number['gid']}, but below {USERS} they are the system's. Put 20000.")
    if options["state"] == "absent":
        return said
    said += [
        f"workshop_{name} is {number[name]}, with which there is no class. Put at least {least}."
        for name, least in LEAST.items()
        if number[name] < least
    ]
    if number["students"] > MOST:
        said.append(f"workshop_students is {number['students']}, and a class has {MOST} at most.")
    if number["nodes"] > nodes:
        said.append(
            f"workshop_nodes is {number['nodes']}, but the cluster has {nodes} compute nodes, so these could "
            f"not be reserved. Put {nodes} or less."
        )
    instead = f'Put its last day, for instance workshop_ends: "{date.fromisoformat(today) + timedelta(4)}"'
    try:
        if _last(options) < date.fromisoformat(today):
            said.append(f"workshop_ends is {options['ends']}, and that day is past. {instead}")
    except ValueError:
        said.append(f"workshop_ends is {str(options['ends'])!r}, which is no date. {instead}")
    return said


def workshop_students(options: Options) -> list[dict[str, Any]]:
    """Name and uid of each student; none of a class that is to be closed."""
    number = _numbers(options)
    count = 0 if options["state"] == "absent" else number["students"]
    return [{"name": f"{options['prefix']}{n:02}", "uid": number["gid"] + n} for n in range(1, count + 1)]


def _entries(text: str) -> list[tuple[str, int]]:
    """Name and number of each line of passwd or group."""
    return [(name, int(number)) for name, number in re.findall(r"(?m)^([^:\n]+):[^:]*:(\d+):", text)]


def _group(options: Options, getent: list[str]) -> re.Match[str] | None:
    """The line of the class's group on a host, with its members; None where there is no class."""
    return re.search(rf"(?m)^{options['prefix']}:[^:]*:{options['gid']}:(.*)$", getent[1])


def workshop_open(options: Options, getent: list[str]) -> bool:
    """Whether a host has the class's group."""
    return _group(options, getent) is not None


def workshop_leaving(options: Options, getent: list[str]) -> list[dict[str, Any]]:
    """Entries of users_accounts for whom a host has in the class's group, and who is of it no longer."""
    group, prefix = _group(options, getent), str(options["prefix"])
    stay = {student["name"] for student in workshop_students(options)}
    # nobody else goes with the class, whoever was put into its group
    own = re.findall(rf"(?<![^,]){re.escape(prefix)}(\d{{2,3}})(?![^,])", group[1] if group else "")
    return [
        {"name": f"{prefix}{number}", "uid": int(options["gid"]) + int(number), "state": "absent"}
        for number in sorted(own, key=int)
        if f"{prefix}{number}" not in stay
    ]


def workshop_clashes(options: Options, getent: list[str], slurm: list[str]) -> list[str]:
    """Say which names and numbers of the class a host or Slurm has already given to others."""
    users = {student["name"]: student["uid"] for student in workshop_students(options)}
    groups = users | {str(options["prefix"]): int(options["gid"])}
    there = workshop_open(options, getent)
    others = [
        f"{kind} {name} with number {number}"
        for kind, wanted, found in (("user", users, getent[0]), ("group", groups, getent[1]))
        for name, number in dict.fromkeys(_entries(found))
        if (name in wanted or number in wanted.values()) and not (there and wanted.get(name) == number)
    ]
    said = []
    if others:
        others[3:] = [f"and {len(others) - 3} more"] * (len(others) > 3)  # noqa: PLR2004
        said.append(
            f"There is already {', '.join(others)}, but group {options['prefix']} is to have number "
            f"{options['gid']}, and its students the following ones. Put another workshop_prefix or "
            "workshop_gid: an open class keeps those that it was opened with."
        )
    if slurm and not there and options["state"] != "absent" and any(_known(options, slurm)):
        said.append(
            f"Slurm already has a QOS, an account or a reservation named {options['prefix']}, which is no "
            "class's. Put another workshop_prefix."
        )
    return said


def workshop_accounts(options: Options, offset: str, keys: str) -> list[dict[str, Any]]:
    """Entries of users_accounts for the students.

    Args:
        options: the role's.
        offset: from UTC to the cluster's time, as in -0600. Accounts are closed by UTC's days: west of it
            the last day has not ended when the next one begins there.
        keys: directory of the students' keys.
    """
    expires = _last(options) + timedelta(2 if offset.startswith("-") else 1)
    common = {"groups": [str(options["prefix"])], "expires": str(expires)}
    return [
        student | common | {"ssh_keys": [Path(keys, f"{student['name']}.pub").read_text().strip()]}
        for student in workshop_students(options)
    ]


def _known(options: Options, slurm: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """What Slurm has under the class's name: QOS, associations as "account|user", the reservation."""
    named = re.search(rf"(?m)^ReservationName={options['prefix']} .*$", slurm[2])
    reservation = dict(re.findall(r"(\w+)=(\S*)", named[0])) if named else {}
    return slurm[0].split(), slurm[1].split(), reservation


def workshop_commands(options: Options, cluster: str, slurm: list[str]) -> list[list[str]]:
    """Commands that turn what Slurm has of the class into what it should have; none where it has that."""
    if not slurm:
        return []
    name, number = str(options["prefix"]), _numbers(options)
    qos, associations, reservation = _known(options, slurm)
    sacctmgr = ["sacctmgr", "--immediate"]
    if options["state"] == "absent":
        return (
            [["scontrol", "delete", f"reservationname={name}"]] * bool(reservation)
            + [[*sacctmgr, "delete", "account", name]] * bool(associations)
            + [[*sacctmgr, "delete", "qos", name]] * bool(qos)
        )
    commands = []

    limits = {
        "MaxJobsPU": str(number["max_jobs"]),
        "MaxSubmitJobsPU": str(number["max_submit"]),
        "MaxTRESPU": f"gres/gpu={number['max_gpus']}",
        "MaxWall": _span(number["max_minutes"]),
        # without the first a job that can never run waits for ever, without the second a partition's limits
        # take the place of these
        "Flags": "DenyOnLimit,OverPartQOS",
    }
    if qos != ["|".join([name, *limits.values()])]:
        verb = ["modify", "qos", name, "set"] if qos else ["add", "qos", name]
        commands.append([*sacctmgr, *verb, *(f"{limit}={value}" for limit, value in limits.items())])

    if f"{name}|" not in associations:
        account = [f"cluster={cluster}", f"qos={name}", f"defaultqos={name}"]
        commands.append([*sacctmgr, "add", "account", name, *account])
    students = [student["name"] for student in workshop_students(options)]
    if missing := [student for student in students if f"{name}|{student}" not in associations]:
        commands.append(
            [*sacctmgr, "add", "user", ",".join(missing), f"cluster={cluster}", f"account={name}"]
        )

    end = {"EndTime": f"{_last(options) + timedelta(1)}T00:00:00"}
    wanted = {"NodeCnt": str(number["nodes"])}
    wanted |= {"Duration": _span(number["hours"] * 60)} if number["hours"] else end
    differing = [f"{key}={value}" for key, value in wanted.items() if reservation.get(key) != value]
    if not reservation:
        new = [f"reservationname={name}", f"accounts={name}", "starttime=now", *differing]
        create = shlex.join(["scontrol", "create", "reservation", *new])
        commands.append(["sh", "-c", f"{create} || {create} flags=ignore_jobs"])
    elif differing:
        commands.append(["scontrol", "update", f"reservationname={name}", *differing])
    return commands


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {
            "workshop_refusals": workshop_refusals,
            "workshop_students": workshop_students,
            "workshop_open": workshop_open,
            "workshop_leaving": workshop_leaving,
            "workshop_clashes": workshop_clashes,
            "workshop_accounts": workshop_accounts,
            "workshop_commands": workshop_commands,
        }
