"""What is refused before anything changes, and how a killed daemon's remains are told from a living one."""

import ipaddress
import os
import shutil
import subprocess

import pytest

from minsky import host, snapshot, system
from minsky.errors import MinskyError

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
vpn0\t00F01FAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0
"""


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_the_route_table_is_read_without_its_default_route():
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


def test_too_little_disk_is_refused_with_what_is_needed_and_what_is_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free / host.GIB
    host.refuse_shortage([(tmp_path / "not" / "there", free / 2, "images")])
    with pytest.raises(
        MinskyError, match=rf"{free * 1.2:.0f} GiB are needed for a in .* and b in .*{free:.1f} GiB are"
    ):
        host.refuse_shortage([(tmp_path / "x", free * 0.6, "a"), (tmp_path, free * 0.6, "b")])


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
    assert host.stale_pid_files(tmp_path) == [pid, containerd]
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    pid.write_text(str(ended.pid))
    assert pid in host.stale_pid_files(tmp_path)
    ended.wait()


def test_the_pid_file_of_a_living_daemon_is_left_alone(tmp_path):
    name = tmp_path / "dockerd"
    shutil.copy("/bin/sleep", name)
    process = subprocess.Popen([name, "60"])
    try:
        (tmp_path / "docker.pid").write_text(str(process.pid))
        assert host.stale_pid_files(tmp_path) == []
    finally:
        process.kill()
        process.wait()


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
    process = subprocess.Popen([name, "60"])
    try:
        with pytest.raises(MinskyError, match="minsky-test-d runs here: this machine is a node of a cluster"):
            system.apt_install("hello", why="hello is missing")
    finally:
        process.kill()
        process.wait()


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
        host.daemon()


def test_a_docker_daemon_that_does_not_answer_at_docker_host_is_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(MinskyError, match="no daemon answers there: start that one, or unset it"):
        host.ensure_docker()


def test_a_daemon_that_this_checkout_did_not_start_is_never_stopped(monkeypatch, tmp_path, sleeper):
    monkeypatch.setattr(host, "STARTED", tmp_path / "dockerd.pid")
    assert host.stop_docker() is False
    host.STARTED.write_text(str(sleeper.pid))  # the pid of a daemon that ended went to another program
    assert host.stop_docker() is False
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


def test_a_new_cgroup_counts_as_left_behind_only_without_processes():
    before = {"cgroup": {"memory/of-a-shell": snapshot.USED}}
    after = {"cgroup": {"memory/of-another-shell": snapshot.USED, "memory/slurm_node1": snapshot.EMPTY}}
    assert snapshot.changes(before, after) == ["cgroup memory/slurm_node1 is left behind"]
