"""What is refused before anything changes, and how a killed daemon's remains are told from a living one."""

import grp
import ipaddress
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from minsky import dockerd, host, snapshot, system
from minsky.errors import MinskyError

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
vpn0\t00F01FAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0
"""


@contextmanager
def running(*command):
    """A process that bears its program's name, which the kernel gives it a moment after Popen returns."""
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 10
        while system.processes().get(process.pid) != Path(command[0]).name:
            assert time.monotonic() < deadline, system.processes().get(process.pid)
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def sleeper():
    with running("sleep", "60") as process:
        yield process


def test_the_route_table_is_read_without_routes_to_everywhere():
    assert host.routes(ROUTES) == [
        (ipaddress.IPv4Network("172.17.0.0/16"), "docker0"),
        (ipaddress.IPv4Network("172.31.240.0/20"), "vpn0"),
    ]


def test_a_network_that_overlaps_the_clusters_is_refused_with_its_owner():
    taken = [(network, f"interface {name}") for network, name in host.routes(ROUTES)]
    with pytest.raises(
        MinskyError, match=r"172\.31\.240\.0/24, but interface vpn0 already has 172\.31\.240\.0/20"
    ):
        host.refuse_taken_subnet(taken)
    host.refuse_taken_subnet(taken[:1])


@pytest.mark.parametrize(
    ("sysctl", "value", "cure"),
    [
        ("user/max_user_namespaces", "0", r"sysctl -w user\.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", r"sysctl -w kernel\.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            r"sysctl -w kernel\.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_a_kernel_that_keeps_users_from_containers_is_refused_with_the_line_that_allows_them(
    tmp_path, sysctl, value, cure
):
    setting = tmp_path / "proc/sys" / sysctl
    setting.parent.mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    with pytest.raises(MinskyError, match=r"dev/fuse is missing.*modprobe fuse"):
        host.refuse_missing_kernel(tmp_path)
    (tmp_path / "dev/fuse").touch()
    host.refuse_missing_kernel(tmp_path)
    setting.write_text("65536\n" if value == "0" else "0\n")
    host.refuse_missing_kernel(tmp_path)
    setting.write_text(f"{value}\n")
    with pytest.raises(MinskyError, match=rf"{sysctl.replace('/', '.')} is {value} .*{cure}$"):
        host.refuse_missing_kernel(tmp_path)


def test_a_node_of_another_checkout_is_refused_with_the_command_that_removes_it(tmp_path):
    (tmp_path / "Makefile").touch()
    other = {"minsky-node1": {host.CHECKOUT_LABEL: str(tmp_path)}}
    with pytest.raises(MinskyError, match=rf"`minsky-node1` already exists.*make -C {tmp_path} down"):
        host.refuse_foreign(other)
    with pytest.raises(MinskyError, match=r"something else.*docker rm -fv minsky-control"):
        host.refuse_foreign({"minsky-control": {}})
    with pytest.raises(MinskyError, match="docker network rm minsky"):
        host.refuse_foreign({"minsky": {}})
    host.refuse_foreign(other, checkout=tmp_path)


def test_too_little_disk_is_refused_with_what_is_needed_and_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100e9, 90e9, 10e9))
    system.refuse_shortage([(tmp_path / "not" / "there", 9, "images")])
    with pytest.raises(
        MinskyError,
        match=r"12\.0 GB are needed for a in .*/x and b in .*, but only 10\.0 GB are free.*MINSKY_CACHE",
    ):
        system.refuse_shortage([(tmp_path / "x", 6, "a"), (tmp_path, 6, "b")])


def test_more_nodes_than_memory_holds_are_refused_with_a_count_that_fits():
    host.refuse_memory(nodes=3, total_mb=8000)
    with pytest.raises(MinskyError, match=r"8000 MiB.*make cluster NODES=3"):
        host.refuse_memory(nodes=16, total_mb=8000)
    with pytest.raises(MinskyError, match="take a larger one"):
        host.refuse_memory(nodes=1, total_mb=1000)


def test_a_pid_file_is_stale_when_its_process_is_dead_or_another_program(tmp_path, sleeper):
    ended = subprocess.Popen(["true"])  # unreaped until the end of this test: a zombie
    pid, containerd = tmp_path / "docker.pid", tmp_path / "docker/containerd/containerd.pid"
    containerd.parent.mkdir(parents=True)
    pid.write_text(f"{sleeper.pid}\n")
    containerd.write_text("")
    assert dockerd.stale_pid_files(tmp_path) == [pid, containerd]
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    pid.write_text(str(ended.pid))
    assert pid in dockerd.stale_pid_files(tmp_path)
    ended.wait()


def test_the_pid_file_of_a_living_daemon_is_left_alone(tmp_path):
    name = tmp_path / "dockerd"
    shutil.copy("/bin/sleep", name)
    with running(name, "60") as process:
        (tmp_path / "docker.pid").write_text(str(process.pid))
        assert dockerd.stale_pid_files(tmp_path) == []


def test_a_daemon_that_lives_and_does_not_answer_is_told_with_the_line_that_ends_it(tmp_path, monkeypatch):
    name = tmp_path / "dockerd"
    shutil.copy("/bin/sleep", name)
    monkeypatch.setattr(dockerd, "STATE", tmp_path / "state")
    with running(name, "60") as process:
        (tmp_path / "docker.pid").write_text(str(process.pid))
        with pytest.raises(
            MinskyError, match=rf"has not answered for 0 s\..*kill \$\(cat {tmp_path}/docker\.pid"
        ):
            dockerd.start_docker(run=tmp_path, deadline=0)


def test_a_zombie_is_no_living_process(sleeper):
    assert system.processes()[sleeper.pid] == "sleep"
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert sleeper.pid not in system.processes()


def test_a_daemon_of_a_container_does_not_make_this_machine_a_node_of_a_cluster(tmp_path):
    for pid, name, namespaces in (("7", "slurmd", "7\t1"), ("8", "bash", "8")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "status").write_text(f"Name:\t{name}\nState:\tS (sleeping)\nNSpid:\t{namespaces}\n")
    assert system.processes(tmp_path) == {8: "bash"}


def test_nothing_is_installed_on_a_node_of_a_cluster(tmp_path, monkeypatch):
    name = tmp_path / "minsky-test-d"
    shutil.copy("/bin/sleep", name)
    monkeypatch.setattr(system, "CLUSTER_DAEMONS", frozenset({name.name}))
    system.refuse_cluster_node()
    with (
        running(name, "60"),
        pytest.raises(MinskyError, match="minsky-test-d runs here: this machine is a node of a cluster"),
    ):
        system.apt_install("hello", why="hello is missing")


def test_an_ordinary_user_without_sudo_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(MinskyError, match=r"^No Docker, and .* as root or with sudo.*docker\.io yourself"):
        system.apt_install("docker.io", why="No Docker")


def test_a_failed_installation_shows_its_last_lines_and_what_to_do(monkeypatch):
    failed = SimpleNamespace(returncode=100, stdout="E: no route to the mirror")
    monkeypatch.setattr(system, "is_debian", lambda: True)
    monkeypatch.setattr(system, "as_root", list)
    monkeypatch.setattr(system, "refuse_cluster_node", lambda: None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        MinskyError, match=r"(?s)hello could not be .* type the same command again:\nE: no route"
    ):
        system.apt_install("hello", why="hello is missing")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=debian\n", True),
        ("NAME=Mint\nID=linuxmint\nID_LIKE=ubuntu\n", True),
        ('ID="rhel"\nID_LIKE="fedora"\nHOME_URL="https://debian.example"\n', False),
    ],
)
def test_debian_and_what_derives_from_it_is_told_from_the_rest(tmp_path, text, expected):
    (tmp_path / "os-release").write_text(text)
    assert system.is_debian(tmp_path / "os-release") is expected
    assert not system.is_debian(tmp_path / "absent")


def test_a_docker_daemon_elsewhere_is_refused(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(MinskyError, match=r"DOCKER_HOST is tcp://192\.0\.2\.1:2375.*unset it"):
        dockerd.daemon()


def test_a_docker_daemon_that_does_not_answer_at_docker_host_is_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(MinskyError, match="no daemon answers there: start that one, or unset it"):
        dockerd.ensure_docker()


def test_without_a_docker_daemon_one_sentence_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    dockerd.client.cache_clear()
    with pytest.raises(MinskyError, match=r"^No Docker daemon answers.*`make cluster` installs and starts"):
        dockerd.client()


def test_a_socket_that_this_user_may_not_write_to_is_said_at_once(monkeypatch, tmp_path):
    (tmp_path / "docker.sock").touch()
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(dockerd, "RUN", tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MinskyError, match=r"docker\.sock is there, but .*as root, or .*usermod -aG docker"):
        dockerd.ensure_docker()


def test_a_user_outside_the_group_docker_is_told_before_anything_is_installed(monkeypatch, tmp_path):
    def fail(*_, **__):
        pytest.fail("something was installed or started first")

    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(dockerd, "RUN", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    for module, name in ((system, "apt_install"), (dockerd, "start_docker"), (subprocess, "run")):
        monkeypatch.setattr(module, name, fail)
    group = SimpleNamespace(gr_name="docker", gr_gid=77)
    for there in ([], [group]):
        monkeypatch.setattr(grp, "getgrall", lambda there=there: there)
        with pytest.raises(MinskyError, match=r"neither root nor .* in the group docker.*usermod -aG docker"):
            dockerd.ensure_docker()
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 77])
    dockerd.refuse_outsider()


def test_a_program_in_sbin_is_found_for_a_user_whose_path_lacks_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert system.find("ldconfig") == shutil.which("ldconfig", path="/usr/local/sbin:/usr/sbin:/sbin")
    assert system.find("no-such-program") is None


def test_a_daemon_that_this_checkout_did_not_start_is_never_stopped(monkeypatch, tmp_path, sleeper):
    monkeypatch.setattr(dockerd, "STARTED", tmp_path / "dockerd.pid")
    assert dockerd.stop_docker() is False
    dockerd.STARTED.write_text(str(sleeper.pid))  # the pid of a daemon that ended went to another program
    assert dockerd.stop_docker() is False
    assert sleeper.poll() is None


def test_snapshots_tell_what_was_changed_added_and_left_behind():
    before = {"sysctl": {"vm/x": "0", "vm/y": "1"}, "mount": {"/a": "ext4"}, "rule": {"r": "present"}}
    after = {
        "sysctl": {"vm/x": "1", "vm/y": "1", "fs/new": "2"},
        "mount": {"/a": "ext4", "/b": "fuse"},
        "rule": {},
    }
    assert snapshot.changes(before, before) == []
    assert snapshot.changes(before, after) == [
        "sysctl vm/x was 0 and is 1",
        "mount /b is new (fuse)",
        "rule r is gone (was present)",
    ]


def test_a_new_cgroup_counts_as_left_behind_without_processes_or_named_after_a_node():
    before = {"cgroup": {"memory/of-a-shell": snapshot.USED}}
    after = {
        "cgroup": {
            "memory/of-another-shell": snapshot.USED,
            "memory/slurm_node1": snapshot.EMPTY,
            "memory/docker/0123abcd": snapshot.USED,
        }
    }
    assert snapshot.changes(before, after, ours=["0123abcd"]) == [
        "cgroup memory/docker/0123abcd is left behind with processes",
        "cgroup memory/slurm_node1 is left behind without processes",
    ]


def test_what_the_host_is_like_is_kept_for_a_later_comparison(monkeypatch, tmp_path):
    taken = {"mount": {"/a": "ext4"}}
    monkeypatch.setattr(snapshot, "KEPT", tmp_path / "before.json")
    monkeypatch.setattr(snapshot, "snapshot_host", lambda: taken)
    snapshot.keep()
    assert json.loads(snapshot.KEPT.read_text()) == taken


def test_a_host_whose_packet_filter_cannot_be_read_costs_a_line_and_no_cluster(monkeypatch, tmp_path, capsys):
    refusing = tmp_path / "iptables-save"
    refusing.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(snapshot, "KEPT", tmp_path / "before.json")
    monkeypatch.setattr(snapshot, "client", lambda: SimpleNamespace(containers=SimpleNamespace(list=list)))
    snapshot.KEPT.write_text("{}")  # of an earlier cluster
    snapshot.keep()
    said = capsys.readouterr().out
    assert "cannot be tested later" in said
    assert "iptables-save` failed: no" in said
    assert len(said.splitlines()) == 1
    assert not snapshot.KEPT.exists()
