"""Work out what nodecheck is to find on a node, and refuse what it would refuse there."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from minsky.gpus.classes import NONE
from minsky.nodecheck.check import registered

ROLES = Path(__file__).resolve().parents[1] / "roles"
# As nobody, as users start them: for root the kernel would mount the image, by a loop device, if it has one.
START = "env HOME=/tmp setpriv --reuid 65534 --regid 65534 --clear-groups apptainer --silent exec --contain"
CLOCKS = re.compile(r"\d+,\d+|")


def nodecheck_file(
    node_class: str, filesystems: list[dict[str, Any]], images: list[str], **stated: Any
) -> dict[str, Any]:
    """Content of /etc/minsky/nodecheck.yml.

    Args:
        node_class: name of the node's class; none: a node without GPUs.
        filesystems: cluster_filesystems; role fs_TYPE says in its variables how /proc/mounts names a TYPE.
        images: staged lab images that the node can run, paths; the one with the shortest name is started.
        stated: further keys as nodecheck knows them; what is 0 or empty is left out.
    """
    content: dict[str, Any] = {
        "class": node_class if node_class == NONE else f"{node_class}.yml",
        "mounts": {entry["mount"]: {"type": _mounted_as(entry["type"])} for entry in filesystems},
    }
    if images:
        content["container"] = f"{START} {min(images, key=lambda path: (len(path), path))} true"
    return content | {key: value for key, value in stated.items() if value}


def _mounted_as(kind: str) -> str:
    variables = yaml.safe_load((ROLES / f"fs_{kind}" / "vars" / "main.yml").read_text())
    return str(variables[f"_fs_{kind}_mounted_as"])


def nodecheck_refusals(hosts: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what of the role's options, as the compute nodes have them, cannot be: a sentence each."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        for sentence in _faults(hostvars[host]):
            found.setdefault(sentence, []).append(host)
    return [f"{sentence} ({', '.join(on)})" for sentence, on in found.items()]


def _faults(variables: Mapping[str, Any]) -> Iterable[str]:
    checks = registered()
    for name, reason in (variables.get("nodecheck_skip") or {}).items():
        if name not in checks:
            near = difflib.get_close_matches(str(name), checks, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            yield f"nodecheck_skip names {name}, which is no check. {hint}Checks are: {', '.join(checks)}."
        elif not (isinstance(reason, str) and reason.strip()):
            yield f'nodecheck_skip gives no reason for {name}. Say why nodes cannot have it: {name}: "..."'
    clocks = variables.get("nodecheck_clocks") or ""
    if not CLOCKS.fullmatch(str(clocks)):
        yield f'nodecheck_clocks is {clocks!r}, but takes memory,graphics in MHz. Put, say, "715,1328".'
    for name in ("nodecheck_smt", "nodecheck_memory_mb"):
        if int(variables.get(name) or 0) < 0:
            yield f"{name} is {variables[name]}, and there is no less than none. Put 0 where any will do."


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"nodecheck_file": nodecheck_file, "nodecheck_refusals": nodecheck_refusals}
