"""nodecheck: each check green and red, on a simulated node; what hangs; what is printed and refused."""

import ctypes
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_node import ASKS_DRIVER, Simulated, rows, unmunge

from minsky import simulated as stand_ins
from minsky.errors import MinskyError
from minsky.gpus.classes import load
from minsky.nodecheck import node as nodes
from minsky.nodecheck import report
from minsky.nodecheck.__main__ import main
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING, Check, Finding, registered
from minsky.nodecheck.node import Mount, Node
from minsky.nodecheck.run import Result, run
from minsky.simulated import UUID

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {name: each for name, each in registered().items() if not each.measures}  # those: test_bandwidth.py
NONE = Node()
AC922 = ("gpu-numa", "cpuset")  # which a Minsky does not have
P100 = "Tesla P100-SXM2-16GB"
DEAD = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.\n"
OFFLINE = stand_ins.numactl(load("ac922-4gpu").cpus, gpu_mib=0)
SPLIT = [
    replace(gpu, links=[max(-1, min(count, 1)) for count in gpu.links]) for gpu in load("minsky-p100").gpus
]
LOST = "Unable to determine the device handle for GPU 0006:01:00.0: GPU is lost.  Reboot the system\n"


@pytest.fixture
def minsky(tmp_path, monkeypatch):
    return simulated(tmp_path, monkeypatch, "minsky-p100")


def simulated(directory, monkeypatch, name):
    made = Simulated(directory, name)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(directory / "bin"))
    return made


def one(node: Node, name: str) -> Result:
    (result,) = run(node, [CHECKS[name]], {})
    return result


def test_a_healthy_minsky_passes_every_check_that_it_has(minsky):
    results = {each.name: each for each in run(minsky.node(), list(CHECKS.values()), {})}
    others = {name: result for name, result in results.items() if result.verdict != OK}
    assert {name: result.found for name, result in others.items()} == {
        "gpu-numa": "no GPU memory in NUMA nodes",
        "cpuset": "no GPU memory in NUMA nodes",
        "mount": "the node file states no mounts",
    }
    assert results["nvlinks"].found == (
        "links between GPUs: 2 links: 0-1, 2-3; NVLinks of each GPU: 4 active; "
        "speed of each link: 19.531 GB/s at least"
    )


def test_a_healthy_ac922_passes_every_check_that_it_has(tmp_path, monkeypatch):
    node = replace(simulated(tmp_path, monkeypatch, "ac922-4gpu").node(), memory_mib=390000)
    results = run(node, list(CHECKS.values()), {})
    assert [(each.name, each.found) for each in results if each.verdict == FAILED] == []
    assert {each.name for each in results if each.verdict == OK} >= set(AC922)
    assert "395264 MiB" in one(node, "memory").found  # without the GPUs' own


def test_memory_that_is_free_on_gpus_is_none_for_the_system(tmp_path, monkeypatch):
    it = simulated(tmp_path, monkeypatch, "ac922-4gpu")
    it.file("proc/meminfo", "MemTotal: 536870912 kB\nMemAvailable: 104857600 kB\n")
    for number in (252, 253, 254, 255):
        it.file(f"sys/devices/system/node/node{number}/meminfo", f"Node {number} MemFree: 26214400 kB\n")
    result = one(it.node(), "memory")
    assert (result.verdict, result.found) == (FAILED, "524288 MiB, 0 MiB free")


def says(program: str, pattern: str, text: str, code: int = 0) -> Callable[[Simulated], None]:
    """What lets a simulated node's program answer something else."""
    return lambda it: it.answer(program, pattern, text, code)


def posing(fault: str = stand_ins.NONE, **changes: object) -> Callable[[Simulated], None]:
    """What lets a simulated node's GPUs and processors be those of a class with *changes*."""
    return lambda it: it.pose(fault, **changes)


def smi(pattern: str, text: str, code: int = 0) -> Callable[[Simulated], None]:
    return says("nvidia-smi", pattern, text, code)


def query(gpus: int, model: str = P100) -> str:
    buses = ("0002", "0003", "0006", "0007")
    return "index, name, uuid, pci.bus_id, memory.total [MiB]\n" + "".join(
        f"{gpu}, {model}, {UUID}{gpu}, 0000{buses[gpu]}:01:00.0, 16280 MiB\n" for gpu in range(gpus)
    )


def munged_an_hour_ago(node):
    says("unmunge", "*", unmunge(-3600))(node)  # an hour from now, not from when this file is read


RED = {
    "processors": (posing(cpus={"cores": 9}), "2 x 9"),
    "smt": (posing(cpus={"smt": [3]}), "threads per core: 3"),
    "numa": (posing(cpus={"numa": [0]}), "NUMA nodes: 0"),
    "gpu-numa": (says("numactl", "-H", OFFLINE), "offline: 252-255"),
    "cpuset": (lambda it: it.file("sys/fs/cgroup/cpuset/docker/cpuset.mems", "0,8\n"), "docker: 0,8"),
    "memory": (
        lambda it: it.file("proc/meminfo", "MemTotal: 503316480 kB\nMemAvailable: 503316480 kB\n"),
        "491520 MiB",
    ),
    "driver": (smi("*driver_version*", DEAD, 9), "has failed"),
    "gpus": (
        smi("*index,name,uuid*", LOST + query(2), 15),
        "GPU 00000006:01:00.0 does not answer: GPU is lost",
    ),
    "nvlinks": (
        posing("nvlink-down"),
        "NVLinks of GPU 2: 3 of 4 active",
    ),
    "npu": (lambda it: it.file("proc/kallsyms", "0 T pnv_pci_get_npu_device\n"), "not there"),
    "ecc": (smi("*ecc.mode*", rows("Enabled", "{}", "No")), "GPU 3: Enabled, 3"),
    "xid": (
        says("dmesg", "*", "[99000.1] NVRM: Xid (PCI:0002:01:00): 79, pid=1, fell off\n"),
        "Xid 79 of 0002:01:00",
    ),
    "throttling": (
        smi("*clocks_throttle*", rows("0x0000000000000048")), "GPU 0: hardware, too"
    ),
    "clocks": (smi("*clocks.applications*", rows("715", "1189")), "715, 1189"),
    "persistence": (
        smi("*persistence*", rows("Enabled", gpus=3) + "3, Disabled\n"),
        "GPU 0,1,2: Enabled; GPU 3: Disabled",
    ),
    "pcie": (
        smi("*pcie*", "0, 16, 16\n1, 8, 16\n2, 16, 16\n3, 16, 16\n"), "GPU 1: 8"
    ),
    "gpu-memory": (
        smi("*memory.used*", rows(f"{UUID}{{}}", "9{}00")), "GPU 1: 9100 MiB"
    ),
    "munge": (munged_an_hour_ago, "Success (0), -360"),
    "time": (
        says("chronyc", "*", "7F,,0,0.0,3.5,0,0,0,0,0,0,0,0,Not synchronised\n"),
        "Not synchronised, +3500",
    ),
    "infiniband": (lambda it: [it.port(f"mlx5_{port}", "1: DOWN") for port in (1, 2, 3)], "mlx5_1/1: DOWN"),
    "container": (
        says("apptainer", "exec *", "FATAL: could not open image\n", 255), "could not open image"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHECKS.keys() - {"mount"}))
def test_a_check_that_fails_says_what_it_found_and_what_to_do(name, tmp_path, monkeypatch):
    spoil, words = RED[name]
    node = simulated(tmp_path, monkeypatch, "ac922-4gpu" if name in AC922 else "minsky-p100")
    assert one(node.node(), name).verdict == OK
    spoil(node)
    result = one(node.node(), name)
    assert (result.verdict, words in result.found) == (FAILED, True), result
    assert result.do
    assert result.expected


MORE_RED = {
    "fewer GPUs": ("gpus", smi("*index,name*", query(3)), "3 GPUs"),
    "another model": (
        "gpus", smi("*index,name*", query(4, "Tesla V100-SXM2-16GB")), "V100",
    ),
    "a pair that is not wired": (
        "nvlinks", posing(gpus=SPLIT), "links GPU 0 to GPU 1: 1",
    ),
    "slow links": (
        "nvlinks", posing(nvlink={"gb_s": 9.8, "generation": 0}), "9.8 GB/s",
    ),
    "links of which nothing is told": (
        "nvlinks", smi("nvlink*", ""), "NVLinks of each GPU: not told",
    ),
    "ECC switched off": (
        "ecc", smi("*ecc*", rows("Disabled", "[N/A]", "[N/A]")), "Disabled",
    ),
    "a field that the driver does not tell": (
        "throttling", smi("*clocks_throttle*", rows("[N/A]")), "no reasons",
    ),
    "a width that the driver does not tell": ("pcie", smi("*pcie*", rows("[N/A]", "[N/A]")), "x [N/A]"),
    "a GPU that is lost among others": (
        "driver", smi("*driver_version*", rows("470.1", gpus=3) + "3, [GPU is lost]\n"),
        "GPU 3 does not answer",
    ),
    "links whose speed is not told": (
        "nvlinks", smi("nvlink*", "".join(
            f"GPU {gpu}: {P100}\n" + "".join(f" Link {i}: Rx0: 0 KBytes, Tx0: 0 KBytes\n" for i in range(4))
            for gpu in range(4)
        )), "speed of each link: not told",
    ),
    "an Xid error of a MIG instance": (
        "xid", says("dmesg", "*", "[99000.1] NVRM: Xid (PCI:0002:01:00 GPU-I:05): 95, pid=7\n"),
        "Xid 95 of 0002:01:00",
    ),
    "a tool that says nothing": ("processors", says("lscpu", "*", ""), "the text is empty"),
    "a row of half a GPU": (
        "persistence", smi("*persistence*", "0\n"), "nvidia-smi: 0",
    ),
    "a kernel log that may not be read": (
        "xid", says("dmesg", "*", "dmesg: Operation not permitted\n", 1), "not permitted",
    ),
    "a credential refused": (
        "munge", says("unmunge", "*", unmunge(0, "Rewound credential (16)")), "Rewound",
    ),
    "munged that is down": (
        "munge", says("munge", "-n", "munge: Error: Failed to access socket\n", 6), "socket",
    ),
    "a clock that is off": (
        "time", says("chronyc", "*", "1,2,0.0,-0.25,0,0,0,0,0,0,0,0,Normal\n"), "-250.000 ms",
    ),
    "a clock that no server has told for long": (
        "time",
        says("chronyc", "*", "1,2,0.0,0.001,0,0,0,0,0,0,0.25,64,Normal\n"),
        "give or take 250",
    ),
    "chronyd that is down": (
        "time", says("chronyc", "*", "506 Cannot talk to daemon\n", 1), "506 Cannot talk",
    ),
    "too slow a port": (
        "infiniband", lambda it: [it.port(f"mlx5_{port}", rate="10 Gb/sec (4X SDR)") for port in range(3)],
        "mlx5_0/1: 10 Gb/sec; ",
    ),
    "no memory free": (
        "memory", lambda it: it.file("proc/meminfo", "MemTotal: 536870912 kB\nMemAvailable: 2048 kB\n"),
        "2 MiB free",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", MORE_RED)
def test_other_faults_are_found_too(fault, minsky):
    name, spoil, words = MORE_RED[fault]
    spoil(minsky)
    result = one(minsky.node(), name)
    assert (result.verdict, words in result.found) == (FAILED, True), result


@pytest.mark.parametrize(
    ("name", "tool"),
    [("driver", "nvidia-smi"), ("gpus", "nvidia-smi"), ("nvlinks", "nvidia-smi"), ("xid", "dmesg"),
     ("smt", "lscpu"), ("munge", "munge"), ("munge", "unmunge"), ("time", "chronyc"),
     ("container", "apptainer")],
)  # fmt: skip
def test_a_missing_tool_is_a_failure_that_names_it(name, tool, minsky):
    minsky.remove(tool)
    result = one(minsky.node(), name)
    assert (result.verdict, f"{tool} cannot be run" in result.found) == (FAILED, True)
    assert f"install {tool}" in result.do


@pytest.mark.parametrize(
    ("name", "spoil", "found"),
    [("xid", says("dmesg", "*", "[1.0] NVRM: Xid (PCI:0002:01:00): 79, old\n"), (OK, "none")),
     ("xid", says("dmesg", "*", "[99999.0] NVRM: Xid (0002:01:00): 31, pid=7\n"),
      (OK, "1 by programs")),
     ("xid", says("dmesg", "*", "NVRM: Xid (PCI:0002:01:00): 63, a page\n"),
      (WARNING, "Xid 63 of 0002:01:00")),
     ("ecc", smi("*ecc*", rows("Enabled", "0", "Yes")), (WARNING, "Enabled, 0, Yes")),
     ("ecc", smi("*ecc*", rows("[N/A]", "[N/A]", "[N/A]")),
      (OK, "[N/A], [N/A], [N/A]")),
     ("throttling", smi("*clocks_throttle*", rows("0x0000000000000004")),
      (WARNING, "GPU 0, 1, 2, 3: at the power limit")),
     ("gpu-memory", lambda it: [it.answer("nvidia-smi", "*memory.used*", rows(f"{UUID}{{}}", "9000")),
      it.answer("nvidia-smi", "*compute-apps*", "".join(f"{UUID}{gpu}\n" for gpu in range(4)))],
      (OK, "0 idle, none holds more"))],
)  # fmt: skip
def test_what_needs_no_repair_does_not_fail(name, spoil, found, minsky):
    spoil(minsky)
    result = one(minsky.node(), name)
    assert (result.verdict, result.found) == found
    assert bool(result.do) == (result.verdict == WARNING)


def test_drivers_that_no_longer_know_a_field_are_asked_for_its_new_name(minsky):
    field = 'Field "clocks_throttle_reasons.active" is not a valid field to query.\n'
    minsky.answer("nvidia-smi", "*clocks_throttle*", field, 2)
    assert one(minsky.node(), "throttling").verdict == FAILED
    minsky.answer("nvidia-smi", "*clocks_event_reasons.active*", rows("0x0000000000000000"))
    assert one(minsky.node(), "throttling").verdict == OK


def test_the_node_file_may_ask_for_one_smt(minsky):
    assert one(replace(minsky.node(), smt=8), "smt").verdict == OK
    assert one(replace(minsky.node(), smt=4), "smt").verdict == FAILED


def test_without_chrony_timesyncd_tells_the_offset(minsky):
    minsky.remove("chronyc")
    minsky.programs["timedatectl"] = {}
    minsky.answer("timedatectl", "timesync-status", "  Server: 10.0.0.1\n  Offset: +1.5ms\n")
    assert one(minsky.node(), "time").found == "+1.500 ms"
    minsky.answer("timedatectl", "timesync-status", "  Server: n/a\n")
    assert one(minsky.node(), "time").verdict == FAILED


# With the machine's own tools and files.


def test_this_machines_own_processors_and_memory_are_read(monkeypatch):
    assert one(NONE, "memory").verdict == OK
    node = replace(NONE, node_class=nodes.load("minsky-p100"), smt=99)
    result = one(node, "smt")
    assert (result.verdict, result.found.isdecimal()) == (FAILED, True)  # by the machine's lscpu


SHM = Path("/dev/shm")
needs_shm = pytest.mark.skipif(not SHM.is_mount(), reason="/dev/shm is no mount: mount a tmpfs there")


def mounted(**mounts: Mount | None) -> list[Result]:
    return run(replace(NONE, mounts=dict(mounts)), [CHECKS["mount"]], {})


@needs_shm
def test_a_mount_is_there_of_its_type_and_writable():
    names = {"/dev/shm": None, "/proc": Mount("proc", writable=False)}
    found = mounted(**names)
    assert [(each.name, each.verdict) for each in found] == [("mount /dev/shm", OK), ("mount /proc", OK)]
    assert not [*SHM.glob(".nodecheck*")]
    (slashed,) = mounted(**{"/dev/shm/": None})
    assert slashed.verdict == OK
    (other,) = mounted(**{"/dev/shm": Mount("nfs*")})
    assert (other.verdict, other.found) == (FAILED, "tmpfs is mounted there")
    (denied,) = mounted(**{"/proc": Mount()})
    assert denied.verdict == FAILED  # nobody can write there


def test_what_is_not_mounted_or_read_only_is_named(tmp_path):
    (result,) = mounted(**{"/nowhere": None})
    assert (result.name, result.found, "/nowhere" in result.do) == ("mount /nowhere", "not mounted", True)
    it = Simulated(tmp_path)
    it.file("proc/self/mounts", "server:/home /my\\040home nfs4 ro,vers=4.2 0 0\n")
    (result,) = run(replace(it.node(), mounts={"/my home": None}), [CHECKS["mount"]], {})
    assert result.found == "nfs4, mounted read-only"


# What hangs.


def quick(name: str, seconds: float = 2) -> Check:
    return replace(CHECKS[name], seconds=seconds)


def test_tools_that_hang_are_failures_of_their_names_and_hang_side_by_side(minsky):
    file = minsky.directory / "bin" / "nvidia-smi"
    file.write_text(f"#!/bin/sh\necho $$ >> {minsky.directory}/pids\nexec /bin/sleep 600\n")
    checks = [quick(name) for name in CHECKS if CHECKS[name].do and name not in AC922]
    began = time.monotonic()
    results = run(minsky.node(), checks, {})
    assert time.monotonic() - began < 8  # one after the other it would be 18
    hung = {each.name for each in results if each.found == "it hangs: no answer within 2 s"}
    assert hung == ASKS_DRIVER
    assert all(each.verdict == FAILED and each.do for each in results if each.name in hung)
    pids = [int(pid) for pid in (minsky.directory / "pids").read_text().split()]
    assert len(pids) == len(ASKS_DRIVER)
    assert wait_for(lambda: not any(map(alive, pids))), "what a check started is killed with it"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, seconds: float = 5):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def made(judge, seconds: float = 5) -> Check:
    return replace(CHECKS["memory"], name="made", judge=judge, seconds=seconds)


def test_a_check_that_ignores_signals_is_a_failure_within_its_limit(tmp_path):
    def stubborn(_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    began = time.monotonic()
    (result,) = run(NONE, [made(stubborn, 1)], {})
    assert (result.verdict, time.monotonic() - began < 4) == (FAILED, True)
    assert "hangs" in result.found
    assert wait_for(lambda: not alive(int((tmp_path / "pid").read_text())), 1)


def crash(_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("judge", "words"),
    [(lambda _: 1 / 0, "the check itself broke: ZeroDivisionError"), (lambda _: None, "itself broke"),
     (crash, "was ended by signal 9"), (lambda _: sys.exit(0), "no answer")],
)  # fmt: skip
def test_a_check_that_breaks_has_not_found_the_node_fit(judge, words):
    (result,) = run(NONE, [made(judge)], {})
    assert (result.verdict, words in result.found) == (FAILED, True), result


def test_a_node_that_can_start_no_process_fails_every_check(monkeypatch):
    def full():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    (result,) = run(NONE, [CHECKS["memory"]], {})
    assert (result.verdict, "Resource temporarily unavailable" in result.found) == (FAILED, True)


class SlowFileSystem:
    """A FUSE file system of the test's own, whose server takes requests and never answers them."""

    def __init__(self, at: Path) -> None:
        self.at, self.libc = at, ctypes.CDLL(None, use_errno=True)
        try:
            self.fd = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(
                f"/dev/fuse cannot be opened ({error.strerror}): give the container --device /dev/fuse"
            )
        options = f"fd={self.fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if self.libc.mount(b"slow", bytes(at), b"fuse.slow", 0, options.encode()):
            os.close(self.fd)
            words = os.strerror(ctypes.get_errno())
            pytest.skip(f"FUSE cannot be mounted ({words}): run as root with CAP_SYS_ADMIN")
        _, _, unique, *_ = struct.unpack_from("IIQQIII", self.take())
        answer = struct.pack("IIIIHHIIHHI7I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)
        os.write(self.fd, struct.pack("IiQ", 16 + len(answer), 0, unique) + answer)

    def take(self, seconds: float = 20) -> bytes:
        assert select.select([self.fd], [], [], seconds)[0], "nobody asked the file system anything"
        return os.read(self.fd, 135168)

    def end(self) -> None:
        os.close(self.fd)  # which fails all that waits
        self.libc.umount2(bytes(self.at), 2)


def test_a_file_system_whose_server_has_stopped_is_a_named_failure_and_keeps_nobody_waiting(tmp_path):
    at = tmp_path / "shared"
    at.mkdir()
    (tmp_path / "node.yml").write_text(f"class: none\nmounts: {{{at}: {{type: fuse.*}}}}\n")
    program = (
        "import dataclasses, sys; from minsky.nodecheck import __main__, check; check.registered();"
        "check.CHECKS['mount'] = dataclasses.replace(check.CHECKS['mount'], seconds=2.0);"
        f"sys.exit(__main__.main(['--node', '{tmp_path}/node.yml', '--only', 'mount', '--json']))"
    )
    slow = SlowFileSystem(at)
    try:
        began = time.monotonic()
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as nodecheck:
            try:
                slow.take()  # and never answer: who asked is now waiting in the kernel
                out, _ = nodecheck.communicate(timeout=20)
            finally:
                nodecheck.kill()
        assert time.monotonic() - began < 10
        assert nodecheck.returncode == 1
        (result,) = json.loads(out)["checks"]
        assert (result["name"], result["found"]) == (f"mount {at}", "it hangs: no answer within 2 s")
        assert f"umount -l {at}" in result["do"]
        stuck = waiting_in_the_kernel(program)
        assert len(stuck) == 1, "the check's process cannot be killed, and nobody waits for it"
    finally:
        slow.end()
    assert wait_for(lambda: not alive(stuck[0]))


def waiting_in_the_kernel(program: str) -> list[int]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command, stat = (directory / "cmdline").read_text(), (directory / "stat").read_text()
        except OSError:
            continue
        if program in command and stat.rsplit(")", 1)[1].split()[0] == "D":
            found.append(int(directory.name))
    return found


def test_nodecheck_that_is_told_to_stop_takes_its_checks_along(minsky):
    file = minsky.directory / "bin" / "munge"
    file.write_text(f"#!/bin/sh\necho $$ > {minsky.directory}/pid\nexec /bin/sleep 600\n")
    with subprocess.Popen(
        [sys.executable, "-m", "minsky.nodecheck", "--class", "none"], env=minsky.environment(), cwd=ROOT
    ) as nodecheck:
        pid = minsky.directory / "pid"
        assert wait_for(lambda: pid.exists() and pid.read_text(), 10)
        nodecheck.terminate()
        assert nodecheck.wait(5) == 143
    assert wait_for(lambda: not alive(int(pid.read_text())))


# What is printed, and what is refused.


def command(it: Simulated, *arguments: str) -> tuple[int, str]:
    it.answer("unmunge", "*", unmunge())  # of now
    (it.directory / "node.yml").write_text(
        "class: minsky-p100\nmemory_mib: 1\ninfiniband: {ports: 0}\nskip: {npu: simulated}\n"
        "container: apptainer exec / true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "minsky.nodecheck", "--node", str(it.directory / "node.yml"), *arguments],
        env=it.environment(), cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_healthy_node_is_status_0_in_every_form(minsky):
    code, told = command(minsky)
    assert code == 0, told
    assert "npu: simulated" in told
    assert "class minsky-p100" in told.splitlines()[-1]
    code, told = command(minsky, "--json")
    found = json.loads(told)
    assert (code, found["verdict"], found["class"]) == (0, OK, "minsky-p100")
    assert {"name", "expected", "found", "verdict", "do", "seconds"} == found["checks"][0].keys()
    assert command(minsky, "--reason") == (0, "")
    code, told = command(minsky, "--nagios")
    assert (code, told.startswith("NODECHECK OK - ")) == (0, True)
    assert "| seconds=0." in told


def test_a_failed_check_is_status_1_and_to_nagios_2(minsky):
    minsky.answer("nvidia-smi", "*persistence*", rows("Disabled"))
    code, told = command(minsky)
    assert code == 1
    assert "persistence  FAILED   Disabled" in told
    assert "do: systemctl enable --now nvidia-persistenced" in told
    assert command(minsky, "--reason") == (1, "persistence: Disabled\n")
    code, told = command(minsky, "--nagios")
    assert (code, told.startswith("NODECHECK CRITICAL - persistence: Disabled | ")) == (2, True)
    assert command(minsky, "--skip", "persistence")[0] == 0
    assert command(minsky, "--only", "persistence")[0] == 1


def test_a_warning_fails_nothing_and_is_1_to_nagios(minsky):
    minsky.answer("nvidia-smi", "*ecc*", rows("Enabled", "0", "Yes"))
    code, told = command(minsky)
    assert (code, "WARNING" in told) == (0, True)
    code, told = command(minsky, "--nagios")
    assert (code, told.startswith("NODECHECK WARNING")) == (1, True)


def test_a_dead_driver_is_one_reason_for_all_that_need_it(minsky):
    minsky.answer("nvidia-smi", "*", DEAD.replace(".\n", " | \n"), 9)
    results = run(minsky.node(), list(CHECKS.values()), {})
    said = report.reason(results)
    names = (
        "driver, gpus, nvlinks, ecc, throttling, clocks, persistence, pcie, gpu-memory: NVIDIA-SMI has failed"
    )
    assert said.startswith(names)
    assert (said.count("has failed"), len(said) <= report.REASON) == (1, True)
    status_line = report.nagios(results, 0.5).splitlines()[0]
    assert status_line.count("|") == 1


REFUSED = {
    "no class": ("mounts: {}\n", "State a class"),
    "a class that does not exist": ("class: minsky-p10\n", "did you mean minsky-p100"),
    "a class file that does not exist": ("class: mine.yml\n", "mine.yml cannot be read"),
    "an unknown key": ("class: none\nmount: {}\n", "unknown key mount; there are mounts, skip"),
    "an unknown key of a mount": ("class: none\nmounts: {/a: {rw: true}}\n", "mounts./a: unknown key rw"),
    "a list of mounts": ("class: none\nmounts: [/a]\n", "mounts: ['/a'] is not a list of keys"),
    "a truth for a number": ("class: none\nsmt: on\n", "smt: True is not a whole number"),
    "a mount that is a number": ("class: none\nmounts: {5: null}\n", "mounts: the key 5 is not text"),
    "a command of half a quotation": (
        'class: none\ncontainer: "a \'b"\n',
        'container: "a \'b" is no command',
    ),
    "an unknown check": ("class: none\nskip: {mung: x}\n", "did you mean munge"),
    "no YAML": ("class: [\n", "no YAML"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_node_file_that_cannot_be_is_refused_with_what_to_type(what, tmp_path, capsys):
    text, words = REFUSED[what]
    file = tmp_path / "node.yml"
    file.write_text(text)
    with pytest.raises(MinskyError) as caught:
        main(["--node", str(file)])
    assert words in str(caught.value)
    assert main(["--node", str(file), "--nagios"]) == 3
    said = capsys.readouterr().out
    assert (said.startswith("NODECHECK UNKNOWN - "), said.count("\n")) == (True, 1)


def test_without_a_node_file_a_class_must_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(nodes, "FILE", tmp_path / "none.yml")
    with pytest.raises(MinskyError, match="--class"):
        main([])
    with pytest.raises(MinskyError, match="cannot be read"):
        main(["--node", str(tmp_path / "none.yml")])


def test_what_checks_nothing_does_not_say_that_all_is_well():
    with pytest.raises(MinskyError, match="nothing is left to check"):
        main(["--class", "none", "--only", "gpus"])


def test_a_class_file_lies_beside_the_node_file(tmp_path):
    (tmp_path / "mine.yml").write_text((ROOT / "slurm/classes/pcie.yml").read_text())
    (tmp_path / "node.yml").write_text("class: mine.yml\n")
    node = nodes.read(tmp_path / "node.yml", None)
    assert node.node_class
    assert node.node_class.name == "mine"


def test_skipped_checks_keep_their_reasons(minsky):
    (result,) = run(minsky.node(), [CHECKS["munge"]], {"munge": "no munge here"})
    assert (result.verdict, result.found, result.do) == (SKIPPED, "no munge here", "")


def test_every_check_says_what_it_expects_and_what_to_do(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name, check in CHECKS.items():
        assert check.about, name
        assert check.do, name
        assert f"{name} " in listed


def test_the_documentation_lists_every_check():
    text = (ROOT / "docs" / "nodecheck.md").read_text()
    assert [name for name in registered() if f"`{name}`" not in text] == []


# The one file.


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory):
    file = tmp_path_factory.mktemp("zipapp") / "nodecheck.pyz"
    assert main(["--zipapp", str(file), "--python", "/usr/bin/python3"]) == 0
    return file


def oldest_python() -> str:
    for minor in range(9, sys.version_info.minor):
        found = shutil.which(f"python3.{minor}")
        asked = [found or "false", "-c", "import sys; print(sys.executable)"]  # not what merely starts it
        told = subprocess.run(asked, check=False, capture_output=True, text=True)
        if found and told.returncode == 0:
            return told.stdout.strip()
    return sys.executable


@pytest.mark.parametrize("python", sorted({oldest_python(), sys.executable}))
def test_the_one_file_and_a_class_file_are_enough(python, zipapp, minsky):
    shutil.copy(ROOT / "slurm/classes/minsky-p100.yml", minsky.directory / "p100.yml")
    environment = {name: value for name, value in minsky.environment().items() if name != "PYTHONPATH"}
    inside = {
        "cwd": minsky.directory,
        "env": environment,
        "capture_output": True,
        "text": True,
        "check": False,
        "timeout": 30,
    }
    alone = [python, "-I", "-S", zipapp]  # no module but Python's own and the file's
    done = subprocess.run([*alone, "--class", "p100.yml", "--skip", "npu,infiniband", "--json"], **inside)  # noqa: PLW1510 - it is in there
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["class"] == "p100"
    assert sum(each["verdict"] == OK for each in found["checks"]) == 15
    again = subprocess.run([*alone, "--zipapp", "x.pyz"], **inside)  # noqa: PLW1510 - it is in there
    assert (again.returncode, "copy it" in again.stderr) == (2, True)


def test_the_one_file_is_the_same_whenever_it_is_made(zipapp, tmp_path):
    assert main(["--zipapp", str(tmp_path / "n.pyz")]) == 0
    assert (tmp_path / "n.pyz").read_bytes() == zipapp.read_bytes()
    assert zipapp.read_bytes().startswith(b"#!/usr/bin/python3 -I\n")
    with pytest.raises(MinskyError, match="cannot be written"):
        main(["--zipapp", "/nowhere/n.pyz"])


def test_a_finding_is_what_a_check_returns():
    assert Finding("a", "b").verdict == OK
