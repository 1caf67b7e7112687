"""Hold an inventory against what the roles declare, before anything is changed."""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from minsky.gpus.classes import NONE, ClassError, available, load

SYSTEM = {"root", "slurm", "munge", "mysql"}  # accounts that the roles' own daemons run under
USERS = 1000  # uids below are the distribution's
MISSPELT = 0.85  # likeness from which a name that belongs to no role counts as a misspelt option


def declared(roles: str) -> dict[str, dict[str, Any]]:
    """Read what an inventory can set: role name -> option name -> its entry in meta/argument_specs.yml."""
    found = {}
    for spec in sorted(Path(roles).glob("*/meta/argument_specs.yml")):
        options = yaml.safe_load(spec.read_text())["argument_specs"]["main"].get("options", {})
        role = spec.parts[-3]
        # others are passed by site.yml
        found[role] = {name: option for name, option in options.items() if name.startswith(f"{role}_")}
    return found


def refusals(hostvars: Mapping[str, Mapping[str, Any]], hosts: list[str], roles: str) -> list[str]:
    """Say in sentences what is wrong with the hosts' variables; an empty list means nothing is.

    A variable that begins with a role's name must be one of the role's options (Ansible itself accepts a
    misspelt one in silence), and its value must be of the declared type and choice. Any other name is the
    site's business, unless it is nearly that of an option.

    Args:
        hostvars: Ansible's hostvars.
        hosts: the hosts to look at.
        roles: directory of roles.
    """
    options = declared(roles)
    setting: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {}
    for host in hosts:
        variables = hostvars[host]
        for name in variables:
            setting.setdefault(name, []).append(host)
        for role, known in options.items():
            for name in [name for name in known if name in variables]:
                if sentence := _unfit(name, variables[name], role, known[name]):
                    found.setdefault(sentence, []).append(host)
    unknown = {sentence: on for name, on in setting.items() if (sentence := _unknown(name, options))}
    return [f"{sentence} ({', '.join(on)})" for sentence, on in (unknown | found).items()]


def _unfit(name: str, value: Any, role: str, option: dict[str, Any]) -> str:
    """Say that a value is not of its option's type or choice; empty where it is, or null: not set."""
    if value is None:
        return ""
    if option.get("type") == "list" and isinstance(value, str):  # Ansible would split it at its commas
        return (
            f"{name} is {value!r}, but role {role} takes a list there, which -e gives as JSON: "
            f"-e '{{\"{name}\": [...]}}'. Its defaults/main.yml says of what."
        )
    errors = ArgumentSpecValidator({name: _without_text(option)}).validate({name: value}).error_messages
    return (
        f"{name} is {value!r}, which role {role} cannot use: {'; '.join(errors)}. Its defaults/main.yml says "
        "what to put."
        if errors
        else ""
    )


def _unknown(name: str, options: dict[str, dict[str, Any]]) -> str:
    """Say that *name* is a misspelt option; empty where it is one, or the site's own variable."""
    for role, known in options.items():
        if name in known:
            return ""
        if name.startswith(f"{role}_"):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            return (
                f"The inventory sets {name}, which role {role} does not know. {hint}"
                f"Its options are: {', '.join(sorted(known))}."
            )
    near = difflib.get_close_matches(name, [n for known in options.values() for n in known], 1, MISSPELT)
    return (
        f"The inventory sets {name}, which no role knows. Did you mean {near[0]}? A variable of your own "
        "needs a name that is less like it."
        if near
        else ""
    )


def filesystem_refusals(filesystems: Any, hosts: list[str], roles: str) -> list[str]:
    """Say what is wrong with cluster_filesystems: shape, type without a role, servers that are no hosts."""
    types = sorted(path.name[3:] for path in Path(roles).glob("fs_*"))
    shaped = isinstance(filesystems, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("servers", []), list) for entry in filesystems
    )
    if not (filesystems and shaped):
        example = f"[{{name: shared, type: {types[0]}, mount: /shared, servers: [{hosts[0]}]}}]"
        need = "homes and images need a shared file system, described in a list, with a list of its servers"
        return [f"cluster_filesystems is {filesystems!r}, but {need}. Give: {example}"]
    said = []
    for entry in filesystems:
        name = entry.get("name", "without a name")
        if entry.get("type") not in types:
            said.append(
                f"File system {name} has type {entry.get('type')!r}, for which there is no role. "
                f"Types are: {', '.join(types)}."
            )
        if not str(entry.get("mount", "")).startswith("/"):
            said.append(
                f"File system {name} is mounted at {entry.get('mount')!r}. Give an absolute path: /shared."
            )
        strangers = sorted(set(entry.get("servers", [])) - set(hosts))
        if strangers:
            said.append(
                f"File system {name} names servers that are not in the inventory: {', '.join(strangers)}. "
                f"Hosts are: {', '.join(sorted(hosts))}."
            )
    for key in ("name", "mount"):
        values = [entry.get(key) for entry in filesystems]
        said += [
            f"Two file systems have the {key} {value!r}. Give each its own."
            for value in sorted({str(v) for v in values if values.count(v) > 1})
        ]
    return said


def class_refusals(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which hosts have a node class that does not exist or contradicts itself."""
    having: dict[str, list[str]] = {}
    for host in hosts:
        having.setdefault(str(hostvars[host].get("cluster_node_class") or NONE), []).append(host)
    having.pop(NONE, None)
    known, said = [NONE, *available()], []
    for name, on in having.items():
        begin = f"cluster_node_class is {name} for {', '.join(on)}"
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"Did you mean {near[0]}? " if near else ""
            said.append(
                f"{begin}, and slurm/classes/ holds no such class. {meant}There are {', '.join(known)}, the "
                "first for nodes without GPUs. The class of another kind of node comes from recordings of "
                "it: python -m minsky.gpus propose --recorded FILE > slurm/classes/NAME.yml (docs/gpus.md)"
            )
            continue
        try:
            load(name)
        except ClassError as error:
            said.append(f"{begin}, which contradicts itself or cannot be read. {error}")
    return said


def _is_date(text: str) -> bool:
    try:
        return bool(datetime.strptime(text, "%Y-%m-%d"))  # noqa: DTZ007 - a day, not a time
    except ValueError:
        return False


def account_refusals(accounts: list[dict[str, Any]]) -> list[str]:
    """Say which accounts have no proper name, share name or uid, or take one of the system's uids."""
    said = [
        f"users_accounts has the name {name!r}, but a login name consists of small letters, digits, _ and -. "
        "Put for instance student1."
        for account in accounts
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name := str(account.get("name")))
    ]
    said += [
        f"users_accounts has {name}, which is the system's: its files would change hands. Give another name."
        for name in sorted(SYSTEM & {str(account.get("name")) for account in accounts})
    ]
    said += [
        f"Account {account.get('name')} expires {account['expires']!r}, which is no date. Put the day from "
        'which it is closed, for instance expires: "2027-02-13"'
        for account in accounts
        if not _is_date(str(account.get("expires", "2027-02-13")))
    ]
    for key in ("name", "uid"):
        values = [account.get(key) for account in accounts]
        said += [
            f"users_accounts has the {key} {value!r} more than once. Give each account its own."
            for value in dict.fromkeys(value for value in values if values.count(value) > 1)
        ]
    said += [
        f"Account {account.get('name')} has uid {uid}, but below {USERS} they are the system's."
        for account in accounts
        if str(uid := account.get("uid", USERS)).isdigit() and int(uid) < USERS
    ]
    return said


def validating_roles(roles: str) -> list[str]:
    """Name the roles that have checks of their own in tasks/validate.yml."""
    return sorted(path.parts[-3] for path in Path(roles).glob("*/tasks/validate.yml"))


def _without_text(option: Any) -> Any:
    """Strip what ArgumentSpecValidator does not take: descriptions and the like."""
    kept = {
        key: value
        for key, value in option.items()
        if key in {"type", "elements", "choices", "default", "required", "no_log"}
    }
    if "options" in option:
        kept["options"] = {name: _without_text(sub) for name, sub in option["options"].items()}
    return kept


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {
            "refusals": refusals,
            "filesystem_refusals": filesystem_refusals,
            "class_refusals": class_refusals,
            "account_refusals": account_refusals,
            "validating_roles": validating_roles,
        }
