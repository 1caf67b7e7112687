"""Refuse file systems and node classes that cannot be."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minsky.gpus.classes import NONE, ClassError, available, load


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


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"filesystem_refusals": filesystem_refusals, "class_refusals": class_refusals}
