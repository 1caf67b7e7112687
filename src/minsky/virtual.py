"""The shape of the virtual cluster: names, addresses, memory and bricks of its machines."""

import ipaddress
from typing import Any

import yaml

from minsky.gpus.classes import NONE
from minsky.paths import ROOT, STATE
from minsky.simulated import DRIVER, MAJOR

_VARS: dict[str, Any] = yaml.safe_load((ROOT / "playbooks/virtual/vars.yml").read_text())

NETWORK: str = _VARS["virtual_network"]
SUBNET = ipaddress.IPv4Network(_VARS["virtual_subnet"])
CONTROL = ipaddress.IPv4Address(_VARS["virtual_control_address"])
PREFIX: str = _VARS["virtual_container_prefix"]
MAX_NODES: int = _VARS["virtual_nodes_most"]
DEFAULT_NODES: int = _VARS["virtual_nodes_default"]
GUEST_SHARE: float = _VARS["virtual_guest_share"]
JOBS_SHARE: float = _VARS["virtual_jobs_share"]
NODE_LEAST_MB: int = _VARS["virtual_node_least_mb"]

INVENTORY = ROOT / "playbooks/inventory/virtual/hosts.yml"
CHECKOUT_LABEL = "minsky.checkout"
# What up.yml and down.yml must know of this checkout.
VARIABLES = {
    "virtual_labels": {"minsky": "1", CHECKOUT_LABEL: str(ROOT)},
    "virtual_state": str(STATE),
    "virtual_inventory": str(INVENTORY),
    # A rule for each of NVIDIA's devices, up to 16 GPUs: the cgroup of a job takes out single ones, which of
    # "195:*" it could not.
    "virtual_device_rules": [f"c {MAJOR}:{minor} rwm" for minor in (*range(16), DRIVER)],
}


def layout(nodes: int, memory_mb: int, node_class: str = NONE) -> dict[str, Any]:
    """What up.yml and the inventory print of a cluster with *nodes* compute nodes.

    Args:
        nodes: compute nodes.
        memory_mb: memory of the machine underneath, in MiB.
        node_class: what the compute nodes pose as.

    Returns:
        Variables: the machines, control first; memory of each and what of it jobs get, in MiB; the machines
        that carry the file system.
    """
    names = ["control", *(f"node{number}" for number in range(1, nodes + 1))]
    memory = int(memory_mb * GUEST_SHARE / len(names))
    return {
        "virtual_machines": [
            {"name": name, "container": f"{PREFIX}{name}", "address": str(CONTROL + number)}
            for number, name in enumerate(names)
        ],
        "virtual_memory_mb": memory,
        "virtual_jobs_memory_mb": int(memory * JOBS_SHARE),
        "virtual_class": node_class,
        # Of nodes that pose. All are checked at once, on the cores of one machine.
        "virtual_health_interval_s": max(15, 5 * nodes),
        # Where there are fewer compute nodes, control carries the missing bricks.
        "virtual_bricks": names[1 : DEFAULT_NODES + 1] if nodes >= DEFAULT_NODES else names,
    }
