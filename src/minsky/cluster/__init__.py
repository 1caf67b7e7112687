"""The virtual cluster: Docker containers that stand for machines, provisioned as a rack would be."""

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from minsky import dockerd, host, images, simulated, snapshot, system, virtual
from minsky.errors import MinskyError
from minsky.gpus.classes import NONE, available, load
from minsky.images import emulation
from minsky.nodecheck import bundle
from minsky.paths import CACHE, ROOT, STATE
from minsky.playbook import play
from minsky.stages import LOGS, Stages, console
from minsky.virtual import CHECKOUT_LABEL, CONTROL, DEFAULT_NODES, INVENTORY, MAX_NODES, PREFIX

# The first of the ordinary users that the inventory opens accounts for.
USER: str = yaml.safe_load((INVENTORY.parent / "group_vars/all.yml").read_text())["users_accounts"][0]["name"]
KEY = STATE / "ssh" / "id_ed25519"
PROVISIONED = STATE / "provisioned"  # digest of all that went into the last run of site.yml that succeeded
LOCK = STATE / "lock"  # held by a command of this checkout that changes something
OURS = f"{CHECKOUT_LABEL}={ROOT}"
# Never all of MINSKY_CACHE, which may be somebody's home.
CACHED = ("base", "data", "locks", "qemu", "sbom", "sif")
# What site.yml reads: a change of any of these files calls for another run.
INPUTS = (
    "ansible.cfg", "playbooks", "slurm", "jobs", "images/versions.toml",
    *(f"src/minsky/{name}" for name in ("data.py", "simulated", *bundle.PARTS)),
)  # fmt: skip
POSED = STATE / "posed"  # what stands in for the hardware of a class
# Faults, each with the check that must find it; the last two need no GPU.
FAULTS = simulated.FAULTS | {"mount-gone": "mount", "clock-skew": "munge"}


def node_count(given: str | None, up: int = 0) -> int:
    """How many compute nodes are wanted.

    Args:
        given: what the user typed; empty or None for the nodes that are up, or else DEFAULT_NODES.
        up: compute nodes that are up.

    Raises:
        MinskyError: no number from 1 to MAX_NODES, or one that the nodes that are up cannot become.
    """
    if not given:
        return up or DEFAULT_NODES
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= MAX_NODES:
        raise MinskyError(
            f"NODES is '{given}', but a virtual cluster has 1 to {MAX_NODES} compute nodes. "
            f"Type for instance: make cluster NODES={DEFAULT_NODES}"
        )
    wanted = int(given)
    if up and wanted != up and min(wanted, up) < DEFAULT_NODES:
        raise MinskyError(
            f"A cluster with {up} compute node(s) is up, and with {wanted} its file system would lie on "
            f"other machines, whither files do not move by themselves. Type: make down cluster NODES={wanted}"
        )
    return wanted


def node_class(given: str | None, up: str = NONE) -> str:
    """What class the compute nodes are to pose as.

    Args:
        given: what the user typed; empty or None for *up*.
        up: what the nodes that are up pose as.

    Raises:
        MinskyError: there is no such class, or it contradicts itself.
    """
    name = given or up
    if name != NONE and name not in available():
        raise MinskyError(
            f"CLASS is '{name}', and slurm/classes/ has {', '.join(available())}; {NONE} is for nodes "
            "without GPUs. Type for instance: make cluster CLASS=minsky-p100"
        )
    if name != NONE:
        load(name)
    return name


def posing() -> str:
    """What class the nodes of the cluster that is up pose as, by its inventory."""
    if not INVENTORY.exists():
        return NONE
    group = yaml.safe_load(INVENTORY.read_text())["all"]["children"]["slurm_node"]
    return str(group["vars"].get("cluster_node_class", NONE))


def ours(*, dead: bool = True) -> dict[str, str]:
    """This checkout's virtual machines: {name: container id}."""
    found = dockerd.client().containers.list(all=dead, filters={"label": OURS})
    return {str(c.name).removeprefix(PREFIX): str(c.id) for c in found}


def running() -> dict[str, str]:
    """This checkout's virtual machines that run: {name: container id}; empty where no daemon answers."""
    return ours(dead=False) if dockerd.daemon() else {}


# -- up, down ----------------------------------------------------------------------------------------


def up(
    nodes: str | None = None, stages: Stages | None = None, *, pose: str | None = None, trust: bool = False
) -> int:
    """Boot and provision the virtual cluster; what already stands is used, what has drifted is repaired.

    Args:
        nodes: compute nodes, "1" to MAX_NODES; by default those that are up, or else three.
        stages: who tells the user; a new one by default.
        pose: the node class that compute nodes pose as; by default what those that are up do, or else none.
        trust: leave a cluster alone whose nodes answer and that was provisioned from just these files.

    Returns:
        The number of compute nodes.
    """
    stages = stages or Stages()
    with stages.stage("host", "checking this machine"):
        if not dockerd.daemon():
            refuse_misfit(node_count(nodes), there=0)
            dockerd.ensure_docker()
        there = ours()
        wanted = node_count(nodes, len(there.keys() - {"control"}))
        posed = node_class(pose, posing() if there else NONE)
        refuse_misfit(wanted, len(there))
        if posed != NONE:
            refuse_without_devices(posed)
        for program, package in {"ssh": "openssh-client", "rsync": "rsync"}.items():
            system.need_program(program, package)
        make_key()
    with stages.stage("images", "building what has changed of the node image and the lab image"):
        node_image, sif = images.ensure(images.image("node")), images.ensure_sif(images.image("lab"))
    if trust and unchanged(wanted, sif, posed):
        console.print("[nodes] all answer, and nothing that goes into them has changed: used as they are")
        return wanted
    PROVISIONED.unlink(missing_ok=True)
    with stages.stage("nodes", f"booting control and {wanted} compute node(s) as Docker containers"):
        if not running():
            snapshot.keep()
        shape = virtual.layout(wanted, host.total_memory_mb(), posed) | {"virtual_image": node_image}
        play("nodes", "virtual/up.yml", "-e", json.dumps(virtual.VARIABLES | shape))
        play("pose", "virtual/pose.yml", "-e", json.dumps(stand_ins(posed)))
    with stages.stage("provision", "running playbooks/site.yml, as for a rack"):
        play("provision", "site.yml", "-e", json.dumps({"staging_images": [str(sif)]}))
        PROVISIONED.write_text(fingerprint(running(), sif, posed))
    return wanted


def stand_ins(posed: str, fault: str = NONE) -> dict[str, object]:
    """Write what stands in for the hardware of class *posed*, and return what playbooks must know of it."""
    shutil.rmtree(POSED, ignore_errors=True)
    if posed != NONE:
        simulated.write(POSED, load(posed), fault)
    return {"virtual_posed": str(POSED), "virtual_posed_files": simulated.FILES}  # to be there, or removed


def refuse_without_devices(posed: str) -> None:
    """Raise where a compute node that is there was made before nodes could have devices of GPUs."""
    old = sorted(
        name
        for name, number in ours().items()
        if name != "control"
        and dockerd.client().containers.get(number).attrs["HostConfig"].get("DeviceCgroupRules")
        != virtual.VARIABLES["virtual_device_rules"]
    )
    if old:
        raise MinskyError(
            f"{' '.join(old)} may not have devices of GPUs, simulated ones either: Docker allows them only "
            f"when a container is made. Type: make down cluster CLASS={posed}"
        )


def fault(node: str | None, name: str | None) -> None:
    """Let a compute node that runs have a simulated fault, instead of the one that it has; `none` mends.

    Args:
        node: its name; empty or None for all, where they are to be mended.
        name: one of FAULTS, or none.

    Raises:
        MinskyError: no cluster is up, there is no such node or fault, or it is one of GPUs where none are.
    """
    there = sorted(running().keys() - {"control"})
    if not there or not PROVISIONED.exists():
        raise MinskyError(
            "No provisioned cluster is up, so there is nothing to break or mend. Type: make cluster"
        )
    if name not in {NONE, *FAULTS}:
        raise MinskyError(
            f"FAULT is '{name or ''}', and there are {', '.join(FAULTS)}; {NONE} mends. "
            f"Type for instance: make fault NODE={there[-1]} FAULT=mount-gone"
        )
    if node not in there and (node or name != NONE):
        raise MinskyError(
            f"NODE is '{node or ''}', and the compute nodes that are up are {', '.join(there)}. "
            f"Type for instance: make fault NODE={there[-1]} FAULT={name}"
        )
    posed = posing()
    if name in simulated.FAULTS and posed == NONE:
        raise MinskyError(
            f"FAULT={name} befalls GPUs, and the cluster's nodes have none, simulated ones either. "
            "Type: make cluster CLASS=minsky-p100"
        )
    hit = [node] if node else there
    files = stand_ins(posed, str(name))  # refuses what cannot befall the class
    # Whoever trusts a cluster that is provisioned must not trust one that is broken, or half mended.
    kept = [line for line in PROVISIONED.read_text().splitlines() if line.split()[0] not in hit]
    broken = "\n".join([*kept, *(f"{each} {name}" for each in hit if name != NONE)])
    if name != NONE:
        PROVISIONED.write_text(broken)
    said = {"virtual_broken": hit, "virtual_fault": name, "virtual_check": FAULTS.get(name or "", "")}
    play("fault", "virtual/fault.yml", "-e", json.dumps(said | files))
    PROVISIONED.write_text(broken)


def refuse_misfit(nodes: int, there: int) -> None:
    """Raise where *nodes* compute nodes do not fit on this machine, *there* of all machines being there."""
    needs = [*images.needs(images.image("node")), *images.needs_sif(images.image("lab"))]
    host.preflight(nodes, new=nodes + 1 - there, needs=needs)


def down() -> None:
    """Remove this checkout's virtual machines and their network; images, caches and Docker stay."""
    PROVISIONED.unlink(missing_ok=True)
    if dockerd.daemon() and (ours() or dockerd.client().networks.list(filters={"label": OURS})):
        play("down", "virtual/down.yml", "-e", json.dumps(virtual.VARIABLES))
        print("minsky: the virtual cluster is gone; images and caches stay")
    else:
        print("minsky: no virtual cluster of this checkout is up")


def remains() -> None:
    """Remove what killed runs left in Docker: this checkout's nodes, and those of checkouts that are gone.

    On a machine for CI (CI=true) nobody else is at work, and all that bears our label goes.
    """
    everything = os.environ.get("CI") == "true"
    for container in dockerd.client().containers.list(all=True, filters={"label": "minsky"}):
        if everything or abandoned(container.labels):
            print(f"minsky: removing container {container.name} ({container.status})")
            container.remove(force=True, v=True)
    for network in dockerd.client().networks.list(filters={"label": "minsky"}, greedy=True):
        if (everything or abandoned(network.attrs["Labels"] or {})) and not network.attrs["Containers"]:
            print(f"minsky: removing network {network.name}")
            network.remove()
    INVENTORY.unlink(missing_ok=True)


def abandoned(labels: Mapping[str, str]) -> bool:
    """Whether what bears *labels* is this checkout's, or one's that is gone; a build's has no owner."""
    owner = labels.get(CHECKOUT_LABEL)
    return owner == str(ROOT) or bool(owner and not Path(owner, "Makefile").exists())


def make_key() -> None:
    """Make this checkout's ssh key, unless it is there."""
    if not KEY.exists():
        KEY.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "minsky virtual cluster"]
        subprocess.run([*command, "-f", KEY], check=True, stdin=subprocess.DEVNULL)


def fingerprint(nodes: dict[str, str], sif: Path, posed: str = NONE, root: Path = ROOT) -> str:
    """Digest of what makes a provisioned cluster: files under INPUTS, the image, containers, class, data."""
    digest = hashlib.sha256(
        json.dumps([sorted(nodes.items()), sif.name, posed, os.environ.get("MINSKY_DATA")]).encode()
    )
    for path in sorted(path for name in INPUTS for path in [root / name, *(root / name).rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_mode}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def unchanged(wanted: int, sif: Path, posed: str = NONE) -> bool:
    """Whether *wanted* nodes are up as class *posed*, serve Slurm, and were made from files as they are."""
    nodes = running()
    if len(nodes) != wanted + 1 or not PROVISIONED.exists():
        return False
    if PROVISIONED.read_text() != fingerprint(nodes, sif, posed):
        return False
    script = f"test -r $MINSKY_SHARED/images/{sif.name} && sinfo --noheader --Node --format='%N %t'"
    asked = subprocess.run(
        ssh(USER, f"bash -lc {shlex.quote(script)}"),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    states = dict(line.split() for line in asked.stdout.splitlines())
    return len(states) == wanted and set(states.values()) <= {"idle", "mix", "alloc", "comp"}


def ssh(user: str, *command: str, terminal: bool = False) -> list[str]:
    """Words that run *command* as *user* on control."""
    settings = {
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": STATE / "ssh/known_hosts",
        "ConnectTimeout": 10,
        "LogLevel": "ERROR",
    }
    options = ["-F", "none", "-i", str(KEY), *(f"-o{name}={value}" for name, value in settings.items())]
    return ["ssh", *(["-t"] if terminal else []), *options, f"{user}@{CONTROL}", *command]


def at_work() -> bool:
    """Whether another command of this checkout is changing the cluster."""
    if not LOCK.exists():
        return False
    with LOCK.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def status() -> None:
    """Say which virtual machines run, and what Slurm says of them, where they are provisioned."""
    nodes = running()
    print(f"{len(nodes)} virtual machine(s) up: {' '.join(sorted(nodes)) or 'make cluster boots them'}")
    posed = posing()
    if nodes and posed != NONE:
        print(f"Compute nodes pose as class {posed}: GPUs, links, sockets and cores are simulated.")
    if nodes and PROVISIONED.exists():
        for line in PROVISIONED.read_text().splitlines()[1:]:
            print(f"A simulated fault: {line}; make fault NODE={line.split()[0]} FAULT={NONE} mends it.")
        # with GRES and features, which say "simulated"
        told = [] if posed == NONE else ["--format=%9P %.5a %.10l %.5D %.6t %20G %10f %N"]
        subprocess.run(ssh("root", shlex.join(["sinfo", *told])), check=False, stdin=subprocess.DEVNULL)
    elif nodes and at_work():
        print(f"They are being provisioned; {LOGS} has what Ansible said so far.")
    elif nodes:
        print("They are not provisioned to the end: make cluster does it.")


def shell() -> int:
    """Log in on control as an ordinary user."""
    if "control" not in running():
        raise MinskyError("No virtual cluster is up, so there is nowhere to log in. Type: make cluster")
    return subprocess.run(ssh(USER, terminal=True), check=False).returncode


def clean() -> None:
    """Remove the virtual cluster, this project's images and caches and `.minsky`, after saying what goes.

    Raises:
        MinskyError: students' keys of a class lie there.
    """
    if keys := [path for path in (STATE / "workshop").rglob("*") if path.is_file()]:
        raise MinskyError(
            f"{keys[0].parent} holds the keys of an open class, without which nobody there can log in: "
            "close it first (make workshop-end), or move that directory away."
        )
    down()
    engine = dockerd.daemon()
    there = engine.images.list() if engine else []
    tags = sorted({tag for image in there for tag in image.tags if tag.startswith("minsky/")})
    directories = [path for path in [*(CACHE / name for name in CACHED), STATE] if path.exists()]
    print("minsky: removing", *tags, *directories, sep="\n  ")
    for tag in tags:
        dockerd.client().images.remove(tag, force=True)
    emulation.remove()
    if engine and not engine.containers.list() and dockerd.stop_docker():
        print("minsky: the Docker daemon that this checkout started has ended")
    for directory in directories:
        shutil.rmtree(directory)
