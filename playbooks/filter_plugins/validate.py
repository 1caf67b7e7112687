"""Hold an inventory against what the roles declare, before anything is changed."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

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
        return {"refusals": refusals, "validating_roles": validating_roles}
