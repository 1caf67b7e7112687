"""What stands in for the hardware of a class is read back as that class; its checks find each fault."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_node import ASKS_DRIVER, Simulated

from minsky import simulated
from minsky.errors import MinskyError
from minsky.gpus import parse
from minsky.gpus.classes import available, load
from minsky.gpus.compare import compare
from minsky.gpus.model import merge
from minsky.nodecheck.check import FAILED, OK, registered
from minsky.nodecheck.run import run

CHECKS = registered()
READABLE = [
    ("nvidia-smi", "topo", "-m"),
    ("nvidia-smi", "--query-gpu=index,name,uuid,pci.bus_id,memory.total", "--format=csv"),
    ("nvidia-smi", "-L"),
    ("nvidia-smi", "-q"),
    ("nvidia-smi", "nvlink", "--status"),
    ("lscpu",),
    ("numactl", "-H"),
]


@pytest.fixture
def say(tmp_path):
    """What a stand-in prints, and its exit status."""

    def said(node, *command, fault=simulated.NONE, status=0, **options):
        for path, text in simulated.tree(node, fault, str(tmp_path)).items():
            (tmp_path / Path(path).name).write_text(text)
        program = tmp_path / command[0]
        done = subprocess.run(
            ["/bin/sh", program, *command[1:]], capture_output=True, text=True, check=False, timeout=20,
            env={"PATH": ""}, **options,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return said


@pytest.mark.parametrize("name", available())
def test_what_a_class_says_is_read_back_as_that_class(name, say):
    node = load(name)
    parts = [parse(text) for words in READABLE if (text := say(node, *words))]
    assert [part.problems for part in parts if not part.complete] == []
    found = merge(parts)
    assert [row for row in compare(found, node) if row.same is False] == []
    assert len({gpu.uuid for gpu in found.gpus}) == len(node.gpus)
    told = {row.what for row in compare(found, node) if row.same}
    wanted = {
        "GPUs",
        "links between GPUs",
        "cores of each GPU",
        "sockets x cores",
        "threads per core",
        "NUMA nodes",
    }
    assert told >= wanted | ({"NVLinks of each GPU"} if node.gpu.nvlinks else set())


@pytest.mark.parametrize("smt", [1, 2, 4, 8])
def test_smt_changes_the_cpus_that_are_told_and_not_the_cores(smt, say):
    node = load("minsky-p100")
    node = replace(node, cpus=replace(node.cpus, smt=[smt]))
    text = say(node, "nvidia-smi", "topo", "-m")
    assert ("\t0,8,16,24" if smt == 1 else "\t0-79\t" if smt == 8 else "\t0-") in text
    assert [row.found for row in compare(parse(text), node) if row.what.startswith("cores")] == [
        "0: 0-9; 1: 0-9; 2: 10-19; 3: 10-19"
    ]


def judged(tmp_path, monkeypatch, name, fault=simulated.NONE):
    it = Simulated(tmp_path, name)
    it.pose(fault)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    node = replace(it.node(), clocks="", infiniband=None, memory_mib=0)
    about = ASKS_DRIVER | {"processors", "smt", "numa", "gpu-numa", "cpuset"}
    return {each.name: each for each in run(node, [CHECKS[check] for check in CHECKS if check in about], {})}


@pytest.mark.parametrize("name", available())
def test_nodecheck_finds_nothing_wrong_with_any_class(name, tmp_path, monkeypatch):
    results = judged(tmp_path, monkeypatch, name)
    assert {each.name: each.found for each in results.values() if each.verdict == FAILED} == {}
    assert "simulated" in results["driver"].found


LOST = "GPU 00000006:01:00.0 does not answer: GPU is lost"
DEAD = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"
FOUND = {
    "nvlink-down": ({"nvlinks"}, "NVLinks of GPU 2: 3 of 4 active; NVLinks of GPU 3: 3 of 4 active"),
    "gpu-lost": (ASKS_DRIVER - {"clocks"}, LOST),
    "driver-dead": (ASKS_DRIVER - {"clocks"}, DEAD),
    "ecc": ({"ecc"}, "GPU 2: Enabled, 3, No"),
}


@pytest.mark.parametrize("fault", simulated.FAULTS)
def test_each_fault_is_found_by_its_check_in_the_right_words(fault, tmp_path, monkeypatch):
    checks, words = FOUND[fault]
    results = judged(tmp_path, monkeypatch, "minsky-p100", fault)
    failed = {each.name: each.found for each in results.values() if each.verdict == FAILED}
    assert failed.keys() == checks
    assert next(iter(failed)) == simulated.FAULTS[fault]
    assert all(words in found for found in failed.values()), failed


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("fault", simulated.FAULTS)
def test_every_fault_befalls_every_class_that_can_have_it(fault, name, tmp_path, monkeypatch):
    if fault == "nvlink-down" and not load(name).gpu.nvlinks:
        with pytest.raises(MinskyError, match=f"class {name} has no NVLinks"):
            simulated.tree(load(name), fault)
        return
    results = judged(tmp_path, monkeypatch, name, fault)
    assert results[simulated.FAULTS[fault]].verdict == FAILED
    assert results["smt"].verdict == OK


def test_a_lost_gpu_is_told_beside_the_rows_of_the_others_as_recorded(say):
    node = load("minsky-p100")
    text = say(
        node, "nvidia-smi", "--query-gpu=index,pci.bus_id", "--format=csv", fault="gpu-lost", status=15
    )
    lost, *rows = text.splitlines()
    assert lost.startswith("Unable to determine the device handle for GPU 0006:01:00.0: GPU is lost.  Reboot")
    assert rows == [
        "index, pci.bus_id",
        "0, 00000002:01:00.0",
        "1, 00000003:01:00.0",
        "3, 00000007:01:00.0",
    ]
    assert not parse(text).complete
    assert say(node, "nvidia-smi", fault="driver-dead", status=9).startswith(f"{DEAD}. Make sure")


def test_any_known_fields_are_told_in_any_order_with_and_without_units(say):
    node = load("minsky-p100-2gpu")

    def query(fields, form="csv,noheader", **expected):
        return say(node, "nvidia-smi", f"--query-gpu={fields}", f"--format={form}", **expected).splitlines()

    assert query("memory.total,index,power.limit", "csv") == [
        "memory.total [MiB], index, power.limit [W]", "16280 MiB, 0, 300.00 W", "16280 MiB, 1, 300.00 W",
    ]  # fmt: skip
    assert query("gpu_uuid, memory.used", "csv,noheader,nounits") == [
        f"{simulated.UUID}{gpu}, 0" for gpu in (0, 1)
    ]
    assert query("driver_version") == ["470.161.03 (simulated)"] * 2
    assert query("name.x", status=2) == ['Field "name.x" is not a valid field to query.']
    assert say(node, "nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv") == (
        "pid, used_memory [MiB]\n"
    )


def test_what_a_person_types_says_that_it_is_simulated(say):
    node = load("minsky-p100")
    for words in ([], ["-L"], ["-q"], ["topo", "-m"], ["nvlink", "-s"], ["--version"], ["-h"]):
        assert "imulated" in say(node, "nvidia-smi", *words), words
    assert "simulated, class minsky-p100" in say(node, "lscpu")
    assert "class minsky-p100: 4 GPUs" in simulated.tree(node)["etc/minsky/simulated"]
    table = say(node, "nvidia-smi").splitlines()
    assert "|   2  Tesla P100-SXM2...  On   | 00000006:01:00.0 Off |                    0 |" in table
    assert {len(line) for line in table if line.startswith(("|", "+"))} == {79}


@pytest.mark.parametrize(
    "command",
    [("nvidia-smi", "-i", "0"), ("nvidia-smi", "--query-gpu=name"), ("lscpu", "-p"), ("numactl", "-s")],
)
def test_what_a_stand_in_does_not_know_it_refuses_in_a_sentence(command, say):
    text = say(load("minsky-p100"), *command, status=6)
    assert f"{command[0]} is simulated here (class minsky-p100) and has no answer to" in text


def test_gpus_whose_devices_may_not_be_opened_are_not_listed(say):
    """As root every file may be opened, and so the program runs as somebody else there."""
    with tempfile.TemporaryDirectory() as made:
        devices = [Path(made) / f"nvidia{gpu}" for gpu in range(4)]
        Path(made).chmod(0o755)
        text = simulated.tree(load("minsky-p100"), devices=made)["usr/local/bin/nvidia-smi"]
        other = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}

        def said(given, *words):
            for gpu, device in enumerate(devices):
                device.touch()
                device.chmod(0o666 if gpu in given else 0)
            return subprocess.run(
                ["/bin/sh", "-s", "--", *words], input=text, capture_output=True, text=True, check=False,
                timeout=20, **other,
            ).stdout  # fmt: skip

        assert [line.split(" (")[1] for line in said({2, 3}, "-L").splitlines()] == [
            f"UUID: {simulated.UUID}{gpu})" for gpu in (2, 3)
        ]
        found = parse(said({2, 3}, "topo", "-m"))
        assert (found.complete, [(link.a, link.b, link.count) for link in found.links]) == (True, [(0, 1, 2)])
        assert said({}, "-L") == "No devices were found\n"


def test_the_unit_makes_the_devices_of_a_class_and_no_more():
    unit = simulated.tree(load("minsky-p100"))["etc/systemd/system/simulated-gpus.service"]
    made = [line.split("/dev/")[1] for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert made == [f"nvidia{gpu} c 195 {gpu}" for gpu in range(4)] + ["nvidiactl c 195 255"]


def test_a_tree_is_written_with_programs_that_can_be_run(tmp_path):
    simulated.write(tmp_path, load("pcie"))
    assert [*simulated.tree(load("pcie"))] == simulated.FILES
    assert {path: os.access(tmp_path / path, os.X_OK) for path in simulated.FILES} == {
        path: path.startswith("usr/local/bin/") for path in simulated.FILES
    }
