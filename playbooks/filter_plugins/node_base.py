"""Name the nodes in /etc/hosts, and refuse machines and options that role node_base cannot make alike."""

import difflib
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

RELEASE = 13  # the oldest with Slurm 24.11, and on which sid's Apptainer installs


def _system(facts: Mapping[str, Any]) -> tuple[str, str] | None:
    """Distribution and its major version; None of a machine whose facts are not known."""
    name = facts.get("distribution")
    return (str(name), str(facts.get("distribution_major_version"))) if name else None


def _fits(name: str, release: str) -> bool:
    return name == "Debian" and (not release.isdigit() or int(release) >= RELEASE)  # testing has no number


def _address(host: str, hostvars: Mapping[str, Any]) -> str:
    return str(hostvars[host].get("ansible_host", host))


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def hosts_lines(hosts: list[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Lines of /etc/hosts: address, the inventory's name, and what precedes its first dot if there is one."""
    return [
        " ".join([_address(host, hostvars), *dict.fromkeys([host, host.partition(".")[0]])])
        for host in sorted(hosts)
    ]


def node_base_refusals(  # noqa: PLR0913 - the role's options by their names
    hosts: list[str],
    hostvars: Mapping[str, Any],
    *,
    hosts_manage: bool,
    timezone: str,
    proxy: str,
    ca_bundle: str,
) -> list[str]:
    """Say what of the machines (where their facts are known) and the options cannot be: a sentence each."""
    said = []
    systems = {host: _system(hostvars[host].get("ansible_facts", {})) for host in hosts}
    others = [
        f"{host} ({' '.join(system)})" for host, system in systems.items() if system and not _fits(*system)
    ]
    if others:
        said.append(
            f"{', '.join(others)} cannot be provisioned: the roles, from node_base to apptainer, install the "
            f"packages of Debian {RELEASE}. Install that there, or take them out of the inventory."
        )
    without = [host for host in hosts if not _is_address(_address(host, hostvars))]
    if hosts_manage and without:
        said.append(
            f"/etc/hosts takes addresses, but ansible_host of {', '.join(without)} is a name or not given. "
            "Put an IP address there, or set node_base_hosts_manage: false where DNS knows the names."
        )
    zones = available_timezones()  # none on a machine without tzdata
    if not re.fullmatch(r"[A-Z]\w*(/[\w+-]+)*", timezone) or (zones and timezone not in zones):
        near = difflib.get_close_matches(timezone, zones, 1) or ["Europe/Berlin"]
        said.append(f"node_base_timezone is {timezone!r}, which is no time zone. Put for instance {near[0]}.")
    if proxy and not re.fullmatch(r"https?://[^\s\"]+", proxy):
        said.append(
            f"node_base_proxy is {proxy!r}, which is no URL. Put for instance http://proxy.example:3128"
        )
    if ca_bundle and not (Path(ca_bundle).is_absolute() and Path(ca_bundle).is_file()):
        said.append(
            f"node_base_ca_bundle is {ca_bundle!r}, which is no absolute path of a file on this machine. Put "
            "the certificates there, in PEM form, or leave the option empty."
        )
    return said


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict[str, Any]:
        """Name them."""
        return {"hosts_lines": hosts_lines, "node_base_refusals": node_base_refusals}
