"""The Docker daemon: the one door to it, opened, shut, and what is said when it does not open."""

import argparse
import functools
import grp
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
from docker.errors import DockerException

from minsky import system
from minsky.errors import MinskyError, speak_plainly
from minsky.paths import STATE

RUN = Path("/var/run")
STARTED = STATE / "dockerd.pid"  # exists while a daemon runs that this checkout started
ADMIT = (
    "type the same command as root, or `sudo groupadd -rf docker; sudo usermod -aG docker $USER`, log in "
    "again and repeat it"
)


def daemon(timeout: int = 120) -> docker.DockerClient | None:
    """A client of the Docker daemon that DOCKER_HOST or the default socket names, or None if none answers.

    Args:
        timeout: seconds that the daemon may be silent over a request.

    Raises:
        MinskyError: a daemon is there but this user may not speak to it, or it is not on this machine.
    """
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        raise MinskyError(
            f"DOCKER_HOST is {host}, but images and virtual nodes are made on this machine and reached over "
            "a bridge of it: unset it, or type the same command on the machine that it names."
        )
    path = Path(host.removeprefix("unix://") or RUN / "docker.sock")
    if path.exists() and not os.access(path, os.W_OK):
        raise MinskyError(
            f"{path} is there, but this user may not write to it, which is how Docker is spoken to: {ADMIT}."
        )
    try:
        engine = docker.DockerClient(base_url=f"unix://{path}", timeout=10)
        engine.ping()
    except (DockerException, OSError):  # requests' exceptions are OSErrors
        return None
    engine.api.timeout = timeout
    return engine


@functools.cache
def client(timeout: int = 120) -> docker.DockerClient:
    """The Docker daemon's client, as `daemon`'s; a MinskyError where none answers."""
    if found := daemon(timeout):
        return found
    raise MinskyError(
        "No Docker daemon answers. On Debian and Ubuntu `make cluster` installs and starts one; elsewhere "
        "start it yourself, so that `docker info` works, and type the same command again."
    )


def root() -> Path:
    """Directory in which the daemon keeps images and containers, or would if it ran."""
    engine = daemon()
    return Path(engine.info()["DockerRootDir"] if engine else "/var/lib/docker")


def refuse_outsider() -> None:
    """Raise where this user could not speak to a daemon once it runs: sooner than an installation."""
    groups = {entry.gr_gid for entry in grp.getgrall() if entry.gr_name == "docker"}
    if os.geteuid() and not groups & {os.getegid(), *os.getgroups()}:
        raise MinskyError(
            "No Docker daemon answers, and this user, who is neither root nor (since logging in) in the "
            f"group docker, could not speak to one that is started now: {ADMIT}."
        )


def ensure_docker() -> None:
    """See to it that a Docker daemon answers: install and start Debian's where none does.

    Raises:
        MinskyError: where that is not to be done here: no Debian, no root, a node of a cluster.
    """
    if daemon():
        return
    if host := os.environ.get("DOCKER_HOST"):
        raise MinskyError(f"DOCKER_HOST is {host}, and no daemon answers there: start that one, or unset it.")
    system.refuse_cluster_node()
    refuse_outsider()
    wanted = {"dockerd": "docker.io", "iptables": "iptables"}
    if missing := [package for program, package in wanted.items() if not system.find(program)]:
        # iptables is only recommended by docker.io, but its bridges do not come up without it
        system.apt_install(*missing, why="no Docker daemon answers, and what one needs is not installed")
    if Path("/run/systemd/system").exists() and system.processes().get(1) == "systemd":
        print("minsky: no Docker daemon answers: starting docker.service", flush=True)
        subprocess.run([*root_prefix(), "systemctl", "start", "docker"], check=False)
        if not daemon():
            raise MinskyError(
                "docker.service does not come up. `journalctl -eu docker` shows why; mend that, then type "
                "the same command again."
            )
    elif start_docker():
        STARTED.write_text((RUN / "docker.pid").read_text().strip())
    client.cache_clear()


def root_prefix() -> list[str]:
    """What to put before a command on Docker's daemon itself; a MinskyError without root."""
    prefix = system.as_root()
    if prefix is None:
        raise MinskyError("The Docker daemon is root's to start and to stop: type the same command as root.")
    return prefix


def start_docker(*options: str, run: Path = RUN, deadline: float = 90) -> bool:
    """Start dockerd without an init system, unless one is coming up, and wait until it answers.

    Args:
        options: for dockerd.
        run: directory of its pid file and socket.
        deadline: seconds to wait.

    Returns:
        Whether it was started here.

    Raises:
        MinskyError: it does not come up, with the last lines of its log.
    """
    log = STATE / "log" / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if stale := stale_pid_files(run):
        subprocess.run([*root_prefix(), "rm", "-f", *stale], check=True)
    process = None
    if not (run / "docker.pid").exists():
        print(f"minsky: no Docker daemon answers: starting dockerd, its log is {log}", flush=True)
        with log.open("wb") as output:
            # A session of its own, so that neither Ctrl-C nor a closed terminal ends the cluster.
            process = subprocess.Popen(
                [*root_prefix(), "dockerd", *options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
            )  # fmt: skip
    end = time.monotonic() + deadline
    while True:
        try:
            docker.DockerClient(base_url=f"unix://{run}/docker.sock", timeout=5).ping()
        except (DockerException, OSError):
            if process and (process.poll() is not None or time.monotonic() > end):
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-6:])
                raise MinskyError(
                    "dockerd does not come up. Mend what its last words say, then type the same command "
                    f"again; all of them are in {log}:\n{tail}"
                ) from None
            if time.monotonic() > end:
                raise MinskyError(
                    f"A dockerd runs and has not answered for {deadline:.0f} s. End it as root by `kill "
                    f"$(cat {run}/docker.pid)`, then type the same command again."
                ) from None
            time.sleep(0.2)
        else:
            return process is not None


def stale_pid_files(run: Path = RUN) -> list[Path]:
    """Pid files of killed daemons that would stop a new one: their pid is dead or another program's."""
    alive, stale = system.processes(), []
    for path, name in (
        (run / "docker.pid", "dockerd"),
        (run / "docker/containerd/containerd.pid", "containerd"),
    ):
        try:
            if alive.get(int(path.read_text().strip() or 0)) != name:
                stale.append(path)
        except (FileNotFoundError, PermissionError):  # not root: root's daemon looks after its own files
            continue
        except ValueError:
            stale.append(path)
    return stale


def stop_docker(deadline: float = 60) -> bool:
    """Stop the daemon that this checkout started; False where it started none, or that one is gone."""
    pid = int(STARTED.read_text()) if STARTED.exists() else 0
    if system.processes().get(pid) != "dockerd":
        STARTED.unlink(missing_ok=True)
        return False
    subprocess.run([*root_prefix(), "kill", f"-{signal.SIGTERM:d}", str(pid)], check=True)
    end = time.monotonic() + deadline
    while system.processes().get(pid) == "dockerd":
        if time.monotonic() > end:
            raise MinskyError(
                f"dockerd (pid {pid}) did not end within {deadline:.0f} s. Type as root: kill -KILL {pid}"
            )
        time.sleep(0.2)
    STARTED.unlink()
    client.cache_clear()
    return True


def main(argv: list[str] | None = None) -> None:
    """Start or stop Docker from the shell."""
    parser = argparse.ArgumentParser(prog="python -m minsky.dockerd", description=__doc__)
    parser.add_argument(
        "verb", choices=["start", "stop"],
        help="start: see to it that a Docker daemon answers; stop: end the one that this checkout started",
    )  # fmt: skip
    if parser.parse_args(argv).verb == "start":
        ensure_docker()
    elif stop_docker():
        print("minsky: the Docker daemon started by this checkout has ended")


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
