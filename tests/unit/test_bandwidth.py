"""nodecheck --measure: copies beside the class's floors, through a stand-in for the driver's library."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from minsky.nodecheck import cuda
from minsky.nodecheck.__main__ import main
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING, Finding, registered
from minsky.nodecheck.node import Node, load
from minsky.nodecheck.run import run

CHECKS = registered()
MEASURING = [check for check in CHECKS.values() if check.measures]
SOURCE = Path(__file__).with_name("cuda.c")
MINSKY = Node(node_class=load("minsky-p100"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no cc to compile the stand-in for libcuda: apt-get install gcc libc6-dev")
    file = tmp_path_factory.mktemp("cuda") / cuda.LIBRARY
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", file, SOURCE], check=True)
    return file


@pytest.fixture
def driver(built, monkeypatch, tmp_path):
    """Four simulated GPUs; what a check says of a Minsky with them, after settings of the stand-in."""
    monkeypatch.setattr(cuda, "LIBRARY", str(built))

    def ask(name, node=MINSKY, **settings):
        for key, value in settings.items():
            monkeypatch.setenv(key, str(value))
        (result,) = run(replace(node, root=tmp_path), [CHECKS[name]], {})
        return result

    return ask


def test_what_is_measured_stands_beside_its_floor_and_where_that_comes_from(driver):
    result = driver("host-to-device")
    assert (result.verdict, result.found) == (OK, "GPU 0: 33.0; GPU 1: 33.0; GPU 2: 33.0; GPU 3: 33.0 GB/s")
    assert result.expected.startswith("28 GB/s at least (70 % of 2 x 20; ")
    result = driver("peer")
    assert (result.verdict, result.found) == (OK, "0-1: 36.0; 1-0: 36.0; 2-3: 36.0; 3-2: 36.0 GB/s")
    assert "29 GB/s at least (80 % of" in result.expected


def test_a_gpu_below_the_floor_is_red_with_what_to_do(driver):
    result = driver("host-to-device", SLOW=2)
    assert (result.verdict, "GPU 2: 3.3;" in result.found) == (FAILED, True)
    assert "far away" in result.do
    assert driver("host-to-device", SLOW=-1, H2D=27.9).verdict == FAILED
    result = driver("peer", PEER=20)
    assert (result.verdict, "0-1: 20.0" in result.found) == (FAILED, True)


def test_gpus_that_reach_each_other_through_the_host_alone_are_told(driver):
    result = driver("peer", node=Node(node_class=load("pcie")), PEER=9)
    assert (result.verdict, result.found.count("3.0 through the host")) == (OK, 8)
    assert "0-1: 9.0;" in result.found


def test_pairs_are_told_by_address_where_a_job_sees_some_of_the_gpus(driver):
    assert driver("peer", GPUS=2, FIRST=2).found == "2-3: 36.0; 3-2: 36.0 GB/s"
    result = driver("peer", GPUS=2, FIRST=1)
    assert (result.verdict, "wired together" in result.found) == (SKIPPED, True)
    result = driver("peer", node=Node(node_class=load("dgx1-v100")), GPUS=2)
    assert (result.verdict, result.found) == (SKIPPED, "2 of 8 GPUs are seen, and their places not told")


def test_a_copy_from_the_far_socket_is_told_and_not_judged(driver, tmp_path):
    for bus, cpus in (("0002:01:00.0", f"{min(os.sched_getaffinity(0))}"), ("0006:01:00.0", "4095")):
        file = tmp_path / "sys/bus/pci/devices" / bus / "local_cpulist"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpus}\n")
    result = driver("host-to-device", SLOW=2)
    assert (result.verdict, "GPU 2: 3.3 from the far socket" in result.found) == (WARNING, True)


def test_a_driver_that_refuses_is_a_failure_in_its_words(driver):
    result = driver("host-to-device", CUDA_STATUS=100)
    assert (result.verdict, result.found) == (FAILED, "cuInit: no CUDA-capable device is detected (100)")


@pytest.mark.parametrize("check", MEASURING, ids=lambda check: check.name)
def test_without_a_driver_what_measures_fails_and_says_so(check, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "LIBRARY", "libcuda-that-is-nowhere.so.1")
    (result,) = run(replace(MINSKY, root=tmp_path), [check], {})
    assert (result.verdict, "no NVIDIA driver" in result.found) == (FAILED, True)
    assert "install the driver" in result.do


@pytest.mark.parametrize("check", MEASURING, ids=lambda check: check.name)
def test_simulated_gpus_copy_nothing(check, tmp_path):
    (tmp_path / "etc/minsky").mkdir(parents=True)
    (tmp_path / "etc/minsky/simulated").write_text("These GPUs are simulated.\n")
    (result,) = run(replace(MINSKY, root=tmp_path), [check], {})
    assert (result.verdict, result.found) == (SKIPPED, "simulated GPUs copy nothing")


def test_what_measures_comes_last_and_one_at_a_time(tmp_path):
    log = tmp_path / "log"

    def told(name, seconds):
        def judge(_):
            with log.open("a") as file:
                file.write(f"{name} begins\n")
            time.sleep(seconds)
            with log.open("a") as file:
                file.write(f"{name} ends\n")
            return Finding("", "")

        return judge

    quick = replace(CHECKS["memory"], name="quick", judge=told("quick", 0.3))
    first, second = (
        replace(MEASURING[0], name=name, judge=told(name, 0.1), applies=lambda _: "") for name in ("a", "b")
    )
    results = run(Node(), [first, quick, second], {})
    assert [each.name for each in results] == ["a", "quick", "b"]
    lines = [f"{name} {what}" for name in ("quick", "a", "b") for what in ("begins", "ends")]
    assert log.read_text().splitlines() == lines


def test_bandwidths_are_measured_only_where_that_is_asked_for(capsys):
    assert {check.name for check in MEASURING} == {"host-to-device", "peer"}
    argv = ["--class", "minsky-p100", "--skip", ",".join(CHECKS.keys() - {"memory"} - {"peer"}), "--json"]
    assert main(argv) == 0
    assert "peer" not in {each["name"] for each in json.loads(capsys.readouterr().out)["checks"]}


def test_the_one_file_measures_too_and_names_where_gpus_are_simulated(built, tmp_path):
    shutil.copy(Path(__file__).resolve().parents[2] / "slurm/classes/minsky-p100.yml", tmp_path)
    archive = tmp_path / "nodecheck.pyz"
    assert main(["--zipapp", str(archive)]) == 0
    alone = [sys.executable, "-I", "-S", archive, "--class", tmp_path / "minsky-p100.yml", "--json"]
    done = subprocess.run(
        [*alone, "--only", "host-to-device,peer"], capture_output=True, text=True, check=False,
        env={**os.environ, "LD_LIBRARY_PATH": str(built.parent)},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert (done.returncode, [each["verdict"] for each in told["checks"]]) == (0, ["ok", "ok"]), done.stderr
    assert (told["simulated"], told["floors"]["peer"]["gb_s"]) == (False, 29)
