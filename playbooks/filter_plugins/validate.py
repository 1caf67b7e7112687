"""Hold an inventory against what the roles declare, before anything is changed."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

USERS = 1000  # uids below are the distribution's


def declared(roles: str) -> dict[str, dict[str, Any]]:
    """Read every role's options: role name -> option name -> its entry in meta/argument_specs.yml."""
    return {
        spec.parts[-3]: yaml.safe_load(spec.read_text())["argument_specs"]["main"].get("options", {})
        for spec in sorted(Path(roles).glob("*/meta/argument_specs.yml"))
    }


def refusals(hostvars: Mapping[str, Mapping[str, Any]], hosts: list[str], roles: str) -> list[str]:
    """Say in sentences what is wrong with the hosts' variables; an empty list means nothing is.

    A variable that begins with a role's name must be one of the role's options (Ansible itself accepts a
    misspelt one in silence), and its value must be of the declared type and choice.

    Args:
        hostvars: Ansible's hostvars.
        hosts: the hosts to look at.
        roles: directory of roles.
    """
    found: dict[str, list[str]] = {}
    for role, options in declared(roles).items():
        for host in hosts:
            names = [name for name in hostvars[host] if name.startswith(f"{role}_")]
            for name in names:
                if name not in options:
                    close = difflib.get_close_matches(name, options, 1)
                    hint = f"Did you mean {close[0]}? " if close else ""
                    sentence = (
                        f"The inventory sets {name}, which role {role} does not know. {hint}"
                        f"Its options are: {', '.join(sorted(options))}."
                    )
                    found.setdefault(sentence, []).append(host)
            known = {name: hostvars[host][name] for name in names if name in options}
            known = {name: value for name, value in known.items() if value is not None}
            spec = {name: _without_text(options[name]) for name in known}
            for message in ArgumentSpecValidator(spec).validate(known).error_messages:
                found.setdefault(f"Role {role}: {message}.", []).append(host)
    return [f"{sentence} ({', '.join(on)})" for sentence, on in found.items()]


def filesystem_refusals(filesystems: list[dict[str, Any]], hosts: list[str], roles: str) -> list[str]:
    """Say what is wrong with cluster_filesystems: shape, type without a role, servers that are no hosts."""
    types = sorted(path.name[3:] for path in Path(roles).glob("fs_*"))
    if not filesystems:
        example = f"[{{name: shared, type: {types[0]}, mount: /shared, servers: [{hosts[0]}]}}]"
        return [
            f"cluster_filesystems is empty, but homes and images need a shared file system. Give: {example}"
        ]
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
        strangers = sorted(set(entry.get("servers") or []) - set(hosts))
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


def account_refusals(accounts: list[dict[str, Any]]) -> list[str]:
    """Say which accounts share a name or a uid, or take a uid that belongs to the system (below USERS)."""
    said = []
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
            "account_refusals": account_refusals,
            "validating_roles": validating_roles,
        }
