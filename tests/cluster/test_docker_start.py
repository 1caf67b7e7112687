"""A Docker daemon of this test's own, beside the one in use: started over remains, and stopped again."""

import os
import shutil
import signal
import subprocess

import pytest

from minsky import dockerd, system
from minsky.errors import MinskyError


@pytest.fixture
def second(virtual, tmp_path, monkeypatch):
    """Options of a daemon that shares nothing with the first."""
    real = shutil.which("dockerd")
    if os.geteuid() or not real:
        pytest.skip("needs root and dockerd: run as root where `docker.io` is installed")
    # In a network namespace of its own: any daemon claims docker0, and --bridge=none deletes it.
    own = tmp_path / "bin" / "dockerd"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\nexec unshare --net {real} "$@"\n')
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{own.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(dockerd, "STATE", tmp_path / "state")
    monkeypatch.setattr(dockerd, "STARTED", tmp_path / "state" / "dockerd.pid")
    yield (
        f"--data-root={tmp_path}/data", f"--exec-root={tmp_path}/docker", f"--pidfile={tmp_path}/docker.pid",
        f"--host=unix://{tmp_path}/docker.sock", "--bridge=none", "--iptables=false",
    )  # fmt: skip
    for pid_file in (tmp_path / "docker.pid", tmp_path / "docker/containerd/containerd.pid"):
        if pid_file.exists() and int(pid_file.read_text()) in system.processes():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
    subprocess.run(["umount", tmp_path / "data"], capture_output=True, check=False)  # left by the killed one


def test_a_daemon_is_started_over_what_a_killed_one_left_and_stopped_again(second, tmp_path):
    pid_files = (tmp_path / "docker.pid", tmp_path / "docker/containerd/containerd.pid")
    dockerd.start_docker(*second, run=tmp_path)
    for path in pid_files:
        os.kill(int(path.read_text()), signal.SIGKILL)
    for path in pid_files:  # pids start again after a while: another program has them now
        path.write_text(str(os.getpid()))
    dockerd.start_docker(*second, run=tmp_path)
    daemon, containerd = (int(path.read_text()) for path in pid_files)
    assert system.processes()[daemon] == "dockerd"
    dockerd.start_docker(*second, run=tmp_path)
    assert int(pid_files[0].read_text()) == daemon, "a second daemon was started beside one that answers"
    dockerd.STARTED.write_text(str(daemon))
    assert dockerd.stop_docker()
    assert not {daemon, containerd} & system.processes().keys()


def test_a_daemon_that_does_not_come_up_shows_the_end_of_its_log(second, tmp_path):
    with pytest.raises(MinskyError, match=r"(?s)does not come up\. .*\.log:.*unknown flag: --nonsense"):
        dockerd.start_docker(*second, "--nonsense", run=tmp_path)
