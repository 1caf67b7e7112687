"""The virtual cluster: Docker containers that stand for machines, provisioned as a rack would be."""

import argparse
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minsky import host, images, system
from minsky.errors import MinskyError, speak_plainly
from minsky.paths import CACHE, ROOT, STATE
from minsky.playbook import play
from minsky.stages import Stages, console

CONTROL = "172.31.240.10"
USER = "student1"
KEY = STATE / "ssh" / "id_ed25519"
PROVISIONED = STATE / "provisioned"  # digest of all that went into the last run of site.yml that succeeded
OURS = f"{host.CHECKOUT_LABEL}={ROOT}"
CACHED = ("base", "data", "locks", "sif")  # never all of MINSKY_CACHE, which may be somebody's home
MAX_NODES = 16
DEFAULT_NODES = 3
# What site.yml reads: a change of any of these files calls for another run.
INPUTS = ("ansible.cfg", "playbooks", "slurm", "jobs", "src/minsky/data.py", "images/versions.toml")


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


def ours(*, dead: bool = True) -> dict[str, str]:
    """This checkout's virtual machines: {name: container id}."""
    found = host.client().containers.list(all=dead, filters={"label": OURS})
    return {str(c.name).removeprefix("minsky-"): str(c.id) for c in found}


def running() -> dict[str, str]:
    """This checkout's virtual machines that run: {name: container id}; empty where no daemon answers."""
    return ours(dead=False) if host.daemon() else {}


# -- up, down ----------------------------------------------------------------------------------------


def up(nodes: str | None = None, stages: Stages | None = None, *, trust: bool = False) -> int:
    """Boot and provision the virtual cluster; what already stands is used, what has drifted is repaired.

    Args:
        nodes: compute nodes, "1" to "16"; by default those that are up, or else three.
        stages: who tells the user; a new one by default.
        trust: leave a cluster alone whose nodes answer and that was provisioned from just these files.

    Returns:
        The number of compute nodes.
    """
    stages = stages or Stages()
    with stages.stage("host", "checking this machine"):
        build = not list((CACHE / "sif").glob("lab-*.sif"))
        if not host.daemon():
            host.preflight(node_count(nodes), new=node_count(nodes) + 1, image_missing=build)
            host.ensure_docker()
        there = ours()
        wanted = node_count(nodes, len(there.keys() - {"control"}))
        host.preflight(wanted, new=wanted + 1 - len(there), image_missing=build)
        for program, package in {"ssh": "openssh-client", "rsync": "rsync"}.items():
            system.need_program(program, package)
        make_key()
    with stages.stage("images", "building what has changed of the node image and the lab image"):
        node_image, sif = images.ensure("node"), images.ensure_sif("lab")
    if trust and unchanged(wanted, sif):
        console.print("[nodes] all answer, and nothing that goes into them has changed: used as they are")
        return wanted
    PROVISIONED.unlink(missing_ok=True)
    with stages.stage("nodes", f"booting control and {wanted} compute node(s) as Docker containers"):
        play("nodes", "virtual/up.yml", "-e", f"virtual_image={node_image}", "-e", f"virtual_nodes={wanted}")
    with stages.stage("provision", "running playbooks/site.yml, as for a rack"):
        play("provision", "site.yml", "-e", f"staging_image={sif}")
        PROVISIONED.write_text(fingerprint(running(), sif))
    return wanted


def down() -> None:
    """Remove this checkout's virtual machines and their network; images, caches and Docker stay."""
    PROVISIONED.unlink(missing_ok=True)
    if host.daemon() and (ours() or host.client().networks.list(filters={"label": OURS})):
        play("down", "virtual/down.yml")
        print("minsky: the virtual cluster is gone; images and caches stay")
    else:
        print("minsky: no virtual cluster of this checkout is up")


def remains() -> None:
    """Remove what virtual clusters and image builds of any checkout left in Docker, dead or alive."""
    for container in host.client().containers.list(all=True, filters={"label": "minsky"}):
        print(f"minsky: removing container {container.name} ({container.status})")
        container.remove(force=True, v=True)
    for network in host.client().networks.list(filters={"label": "minsky"}):
        print(f"minsky: removing network {network.name}")
        network.remove()
    (ROOT / "playbooks/inventory/virtual/hosts.yml").unlink(missing_ok=True)


def make_key() -> None:
    """Make this checkout's ssh key, unless it is there."""
    if not KEY.exists():
        KEY.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "minsky virtual cluster",
            "-f",
            str(KEY),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def fingerprint(nodes: dict[str, str], sif: Path, root: Path = ROOT) -> str:
    """Digest of what makes a provisioned cluster: files under INPUTS, the image, containers, data."""
    digest = hashlib.sha256(
        json.dumps([sorted(nodes.items()), sif.name, os.environ.get("MINSKY_DATA")]).encode()
    )
    for path in sorted(path for name in INPUTS for path in [root / name, *(root / name).rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_mode}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def unchanged(wanted: int, sif: Path) -> bool:
    """Whether *wanted* nodes are up, serve Slurm, and were provisioned from the files as they are."""
    nodes = running()
    if len(nodes) != wanted + 1 or not PROVISIONED.exists():
        return False
    if PROVISIONED.read_text() != fingerprint(nodes, sif):
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
    options = [
        "-i",
        str(KEY),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        f"UserKnownHostsFile={STATE / 'ssh/known_hosts'}",
    ]
    options += ["-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR", "-F", "none"]
    return ["ssh", *(["-t"] if terminal else []), *options, f"{user}@{CONTROL}", *command]


def status() -> None:
    """Say which virtual machines run, and what Slurm says of them."""
    nodes = running()
    print(f"{len(nodes)} virtual machine(s) up: {' '.join(sorted(nodes)) or 'make cluster boots them'}")
    if nodes:
        subprocess.run(ssh("root", "sinfo"), check=False, stdin=subprocess.DEVNULL)


def shell() -> int:
    """Log in on control as an ordinary user."""
    if "control" not in running():
        raise MinskyError("No virtual cluster is up, so there is nowhere to log in. Type: make cluster")
    return subprocess.run(ssh(USER, terminal=True), check=False).returncode


def clean() -> None:
    """Remove the virtual cluster, this project's images and caches and `.minsky`, after saying what goes."""
    down()
    engine = host.daemon()
    tags = (
        sorted({t for i in engine.images.list() for t in i.tags if t.startswith("minsky/")}) if engine else []
    )
    directories = [path for path in [*(CACHE / name for name in CACHED), STATE] if path.exists()]
    print("minsky: removing", *tags, *directories, sep="\n  ")
    for tag in tags:
        host.client().images.remove(tag, force=True)
    if engine and not engine.containers.list() and host.stop_docker():
        print("minsky: the Docker daemon that this checkout started has ended")
    for directory in directories:
        shutil.rmtree(directory)


VERBS = {
    "up": "boot and provision the cluster; again: repair what has drifted",
    "demo": "all that is missing, then train a network on two nodes; options it does not know go to the lab",
    "status": "which virtual machines run, and what Slurm says of them",
    "shell": f"log in on the cluster as {USER}",
    "down": "remove the virtual machines and their network; images and caches stay",
    "remains": "remove all that virtual clusters of any checkout have left in Docker, dead or alive",
    "clean": "down, and remove images, caches and .minsky too",
}
EPILOG = """verbs:
{verbs}

examples:
  python -m minsky.cluster up --nodes 2       control, node1 and node2
  python -m minsky.cluster demo --epochs 1    --epochs goes to the lab, as on sbatch's line
  python -m minsky.cluster shell              then: sinfo, sbatch jobs/cnn_horovod.sh, squeue

The Makefile's verbs call these after seeing to .venv: make cluster NODES=2, make demo ARGS="--epochs 1".
""".format(verbs="\n".join(f"  {verb:<8} {text}" for verb, text in VERBS.items()))


@contextmanager
def alone() -> Iterator[None]:
    """Hold this checkout's lock; a MinskyError where another command holds it."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MinskyError(
                "Another make in this checkout is at work on the cluster: wait for it."
            ) from None
        yield


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m minsky.cluster", description=__doc__, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of those below")
    parser.add_argument(
        "--nodes", default=os.environ.get("NODES"),
        help=f"compute nodes, 1 to {MAX_NODES}; NODES in the environment; else those up, or {DEFAULT_NODES}",
    )  # fmt: skip
    options, rest = parser.parse_known_args(argv)
    if rest and options.verb != "demo":
        parser.error(f"{options.verb} does not know {' '.join(rest)}")
    if options.verb == "shell":
        return shell()
    if options.verb == "status":
        status()
        return 0
    node_count(options.nodes)
    mirror = os.environ.get("MINSKY_DATA", "")
    if mirror and "://" not in mirror:
        if not Path(mirror).is_dir():
            raise MinskyError(
                f"MINSKY_DATA is '{mirror}', which is no directory and no URL. Give one that holds mnist/."
            )
        os.environ["MINSKY_DATA"] = str(Path(mirror).resolve())  # playbooks run elsewhere
    with alone():
        if options.verb == "up":
            stages = Stages()
            wanted = up(options.nodes, stages)
            console.print(f"\nSeconds per stage:\n{stages.table()}\n")
            console.print(f"control and {wanted} compute node(s) are up. Log in with: make shell")
        elif options.verb == "demo":
            from minsky.demo import demo  # noqa: PLC0415 - it imports this module

            demo(options.nodes, rest)
        else:
            {"down": down, "remains": remains, "clean": clean}[options.verb]()
    return 0


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
