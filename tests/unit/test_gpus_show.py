"""The command line on recordings, on a node with NVML or nvidia-smi, and the pictures."""

import ctypes
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import pytest
from gpu_texts import LISTING, LSCPU, MINSKY, MODERN, P2P, QUERY, STATUS

from minsky.errors import MinskyError, speak_plainly
from minsky.gpus import live, parse
from minsky.gpus.__main__ import main
from minsky.gpus.classes import available, load
from minsky.gpus.model import ContradictionError, format_list, merge
from minsky.gpus.slurm import gres


def run(*argv: str) -> int:
    return speak_plainly(lambda: main(list(argv)))


@pytest.fixture
def recorded(tmp_path):
    def write(*texts: str) -> list[str]:
        options = []
        for text in texts:
            file = tmp_path / f"{len(list(tmp_path.iterdir()))}.txt"
            file.write_text(text)
            options += ["--recorded", str(file)]
        return options

    return write


@pytest.mark.parametrize(
    ("text", "status"),
    [(MINSKY, 0), (MINSKY.replace("NV2", "NV1", 1), 1), ("No devices were found\n", 1), (P2P, 2)],
)
def test_the_exit_status_says_whether_a_recording_was_whole(text, status, recorded, capsys):
    assert run("show", *recorded(text)) == status
    assert bool(capsys.readouterr().err) == (status == 2)


def test_a_table_shows_links_and_problems(recorded, capsys):
    assert run("show", *recorded(MINSKY.replace("NV2\t X ", "NV1\t X ", 1))) == 1
    out = capsys.readouterr().out
    assert "4 GPUs" in out
    assert "NV1, but NV2 in line 2" in out
    assert "line 3" in out


def test_json_is_one_line_and_like_the_parsers(recorded, capsys):
    assert run("show", "--json", *recorded(MINSKY)) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == parse(MINSKY).as_json()


def test_the_standard_input_can_be_read(monkeypatch, capsys):
    file = io.TextIOWrapper(io.BytesIO(MINSKY.encode()))
    monkeypatch.setattr("builtins.open", lambda *_: file.buffer)
    assert run("show", "--json", "--recorded", "-") == 0
    assert json.loads(capsys.readouterr().out)["source"] == "topo -m"


def test_a_terminal_without_the_letters_gets_others(recorded):
    argv = [
        sys.executable,
        "-m",
        "minsky.gpus",
        "show",
        *recorded("GPU 0: A\ufffd (UUID: GPU-aaaa)\n\ufffd\n"),
    ]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le", "utf-8-sig"])
def test_what_windows_writes_reads_like_the_original(encoding, tmp_path, capsys):
    file = tmp_path / "topo.txt"
    mark = "\ufeff" if encoding.endswith("e") else ""
    file.write_bytes((mark + MINSKY.replace("\n", "\r\n")).encode(encoding))
    assert run("show", "--json", "--recorded", str(file)) == 0
    assert json.loads(capsys.readouterr().out) == parse(MINSKY).as_json()


def test_recordings_of_one_node_are_put_together(recorded, capsys):
    models = LISTING + LISTING.replace("GPU 0", "GPU 2").replace("GPU 1", "GPU 3").replace(
        "55555555555", "66666666666"
    )
    assert run("show", "--json", *recorded(MINSKY, models, LSCPU)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == "topo -m + -L + lscpu"
    assert told["gpus"][3]["model"] == "Tesla P100-SXM2-16GB"
    assert (len(told["links"]), told["cpus"]["sockets"]) == (2, 2)


def test_recordings_of_two_nodes_are_refused():
    with pytest.raises(ContradictionError, match="model of GPU 0"):
        merge([parse(LISTING), parse(QUERY.replace("P100", "V100"))])
    assert not merge([parse(LISTING), parse(MINSKY)]).complete


def test_what_cannot_be_read_is_a_sentence(recorded, tmp_path, capsys):
    large = tmp_path / "large"
    large.write_bytes(b"GPU0" * 2**20 + b"\n")
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)) * 8)
    for argv in (
        ["show", "--recorded", str(tmp_path / "none")],
        ["show", "--recorded", str(tmp_path)],
        ["show", "--recorded", str(large)],
        ["show", "--recorded", str(binary)],
        ["show", "--class", "minsky"],
        ["show", "--class", "minsky-p100", *recorded(MINSKY)],
        ["show", *recorded(MINSKY), "--picture", "node.gif"],
        ["show", *recorded(LSCPU), "--picture", str(tmp_path / "node.png")],
        ["show", *recorded(MINSKY), "--picture", "/nowhere/node.png"],
        ["gres", "--class", "minsky-p100", "--nodes", "m[01"],
    ):
        assert run(*argv) == 2, argv
        said = capsys.readouterr().err
        assert said.startswith("minsky: ")
        assert "Traceback" not in said


def test_the_module_runs_by_its_name():
    argv = [sys.executable, "-m", "minsky.gpus", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert "exit status: 0 whole" in done.stdout
    assert all(name in done.stdout for name in available())


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("name", ["minsky-p100", "dgx1-v100", "dgx-a100", "pcie"])
def test_a_class_is_drawn(name, suffix, tmp_path, capsys):
    file = tmp_path / f"node.{suffix}"
    assert run("show", "--class", name, "--picture", str(file)) == 0
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(content) > 10000


def test_a_picture_names_only_what_was_told(recorded, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "none")
    file = tmp_path / "node.svg"
    run("show", *recorded(MINSKY), "--picture", str(file))
    drawn = file.read_text()
    assert drawn.count("2 NVLinks") == 2
    assert "GB/s" not in drawn
    assert "PCIe" not in drawn
    run("show", "--class", "minsky-p100", "--picture", str(file))
    drawn = file.read_text()
    assert (drawn.count("2 x 20 ="), drawn.count("40 GB/s")) == (6, 6)
    run("show", *recorded(MODERN), "--picture", str(file))
    assert "NIC0" in file.read_text()


class NVMLError(Exception):
    pass


class NotSupportedError(NVMLError):
    pass


def nvml(wires: dict[int, list[int | str]], lost: int | None = None) -> SimpleNamespace:
    """A pynvml of GPUs whose links lead to other GPUs, "cpu" or "switch"; "down" is a link that is not up."""
    buses = {gpu: f"000{gpu}:01:00.0" for gpu in wires}

    def handle(gpu):
        if gpu == lost:
            raise NVMLError("GPU is lost")
        return gpu

    def state(gpu, link):
        if link >= len(wires[gpu]):
            raise NotSupportedError
        return int(wires[gpu][link] != "down")

    def remote(gpu, link):
        to = wires[gpu][link]
        if to == "down":
            raise NotSupportedError
        return SimpleNamespace(busId=buses[to] if isinstance(to, int) else "0099:00:00.0")

    words = live.MASK_WORDS * ctypes.sizeof(ctypes.c_ulong) // 8
    errors = dict.fromkeys(
        ("NotSupported", "FunctionNotFound", "InvalidArgument", "NotFound"), NotSupportedError
    )
    return SimpleNamespace(
        **{f"NVMLError_{kind}": error for kind, error in errors.items()},
        NVMLError=NVMLError,
        NVML_NVLINK_MAX_LINKS=18,
        NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON=90,
        nvmlDeviceGetCount=lambda: len(wires),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetName=lambda _: b"Tesla P100-SXM2-16GB",
        nvmlDeviceGetUUID=lambda gpu: f"GPU-{gpu}",
        nvmlDeviceGetPciInfo=lambda gpu: SimpleNamespace(busId=buses[gpu].encode()),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=16280 * 2**20),
        nvmlDeviceGetCpuAffinity=lambda gpu, _: [0xFF << 8 * (gpu // 2), *[0] * (words - 1)],
        nvmlDeviceGetMemoryAffinity=lambda gpu, *_: [1 << gpu // 2],
        nvmlDeviceGetNvLinkState=state,
        nvmlDeviceGetNvLinkRemotePciInfo=remote,
        nvmlDeviceGetNvLinkRemoteDeviceType=lambda gpu, link: {"cpu": 1, "switch": 2}.get(
            wires[gpu][link], 0
        ),
        nvmlDeviceGetTopologyCommonAncestor=lambda a, b: 40 if a // 2 == b // 2 else 50,
        nvmlDeviceGetFieldValues=lambda *_: [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=19531))
        ],
    )


PAIRS = {0: [1, 1, "cpu", "cpu"], 1: [0, 0, "cpu", "cpu"], 2: [3, 3, "cpu", "cpu"], 3: [2, 2, "cpu", "cpu"]}


def test_nvml_tells_pairs_links_to_the_processor_and_speeds():
    found = live.read_nvml(nvml(PAIRS))
    assert found.complete
    assert [(link.a, link.b, link.count, link.active) for link in found.links] == [(0, 1, 2, 2), (2, 3, 2, 2)]
    assert found.paths["GPU0"] == {"GPU1": "NV2", "GPU2": "SYS", "GPU3": "SYS"}
    gpu = found.gpus[2]
    assert (gpu.model, gpu.bus_id, gpu.memory_mib) == ("Tesla P100-SXM2-16GB", "00000002:01:00.0", 16280)
    assert (gpu.cpu_affinity, gpu.numa) == ([*range(8, 16)], [1])
    assert [(link.gb_s, link.remote) for link in gpu.nvlinks or []][1:3] == [
        (19.531, "GPU3"),
        (19.531, "cpu"),
    ]


def test_nvml_counts_links_through_a_switch_for_every_pair():
    found = live.read_nvml(nvml({gpu: ["switch"] * 12 for gpu in range(4)}))
    assert {(link.count, link.active) for link in found.links} == {(12, 12)}
    assert len(found.links) == 6


def test_nvml_tells_links_that_are_down_and_gpus_that_are_lost():
    down = live.read_nvml(nvml({0: [1, "down"], 1: [0, "down"]}))
    assert [(link.count, link.active) for link in down.links] == [(1, 1)]
    assert [link.active for link in down.gpus[0].nvlinks or []] == [True, False]
    lost = live.read_nvml(nvml(PAIRS, lost=1))
    assert (lost.complete, [gpu.index for gpu in lost.gpus]) == (False, [0, 2, 3])
    assert "GPU 1 does not answer: GPU is lost" in lost.problems[0].what


def test_nvml_without_gpus_is_not_whole():
    found = live.read_nvml(nvml({}))
    assert [problem.what for problem in found.problems] == ["No devices were found"]


@pytest.mark.parametrize(
    "question",
    ["nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemotePciInfo", "nvmlDeviceGetTopologyCommonAncestor"],
)
def test_a_gpu_that_is_lost_while_it_is_asked_is_a_problem(question):
    def lost(*_):
        raise NVMLError("GPU is lost")

    module = nvml(PAIRS)
    setattr(module, question, lost)
    found = live.read_nvml(module)
    assert (found.complete, len(found.gpus)) == (False, 4)
    assert {problem.what for problem in found.problems} >= {"GPU 0 does not answer: GPU is lost"}


@pytest.fixture
def without_nvml(monkeypatch, tmp_path):
    """A machine without NVML, whose programs are those that the test writes into a directory."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    def program(name: str, answers: dict[str, str], status: int = 0) -> None:
        cases = "".join(f"{args}) printf '%s' '{text}';;\n" for args, text in answers.items())
        file = tmp_path / name
        file.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexit {status}\n')
        file.chmod(0o755)

    return program


def test_without_nvml_nvidia_smi_tells_the_same(without_nvml, capsys):
    matrix = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV2\t0-7\nGPU1\tNV2\t X \t0-7\n"
    without_nvml("nvidia-smi", {"topo*": matrix, "*query-gpu*": QUERY, "nvlink*": STATUS})
    without_nvml("lscpu", {"*": LSCPU})
    assert run("show", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == "topo -m + --query-gpu --format=csv + nvlink --status"
    assert told["gpus"][1]["bus_id"] == "00000003:01:00.0"
    assert told["gpus"][0]["nvlinks"][2]["active"] is False
    assert told["cpus"]["cores"] == 2


def test_gpus_without_nvlink_have_no_status(without_nvml, capsys):
    without_nvml(
        "nvidia-smi",
        {"topo*": "\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n", "*query*": QUERY[: QUERY.index("\n1")]},
    )
    assert run("show", "--json") == 0
    assert json.loads(capsys.readouterr().out)["gpus"][0]["nvlinks"] is None


def test_a_dead_driver_is_incomplete_and_no_gpu_at_all_refused(without_nvml, capsys):
    dead = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    without_nvml("nvidia-smi", {"*": dead}, status=9)
    assert run("show", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [{"line": 1, "what": dead}]
    (Path(os.environ["PATH"]) / "nvidia-smi").unlink()
    assert run("show") == 2
    assert "install the driver, or read a recording with --recorded" in capsys.readouterr().err


def test_what_nvidia_smi_says_instead_is_quoted(without_nvml):
    without_nvml("nvidia-smi", {"*": "libcuda.so: cannot open shared object file"}, status=127)
    with pytest.raises(MinskyError, match=r"nvidia-smi topo -m says libcuda\.so: cannot open"):
        live.live()


def test_a_driver_that_hangs_is_told_after_a_while(without_nvml, monkeypatch):
    without_nvml("nvidia-smi", {"*": "x"})
    file = Path(os.environ["PATH"]) / "nvidia-smi"
    file.write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    monkeypatch.setattr(live, "SECONDS", 0.3)
    with pytest.raises(MinskyError, match="the driver hangs"):
        live.live()


def mask(cpus: list[int]) -> list[int]:
    words = [0] * live.MASK_WORDS
    for cpu in cpus:
        words[cpu // 64] |= 1 << cpu % 64
    return words


@pytest.mark.parametrize(
    ("name", "threads"), [(name, smt) for name in available() for smt in load(name).cpus.smt]
)
def test_lines_for_slurm_say_what_its_autodetection_by_nvml_finds(name, threads):
    # as its plugin gpu/nvml does: Links count those that are up by the PCI address at their other end, Type
    # matches where the driver's name contains it, Cores are those of the CPUs that NVML names
    node = load(name)
    cpus = node.cpus
    thread = (lambda cpu: cpu % cpus.threads) if cpus.numbering == "block" else (lambda cpu: cpu // total)
    total = cpus.sockets * cpus.cores
    online = [cpu for cpu in range(total * cpus.threads) if thread(cpu) < threads]
    near = [
        [cpu for cpu in online if cpus.core_indexes([cpu])[0] in cpus.socket_cores(device.socket)]
        for device in node.gpus
    ]
    switched = node.nvlink is not None and node.nvlink.switched
    wires = {
        gpu: (["switch"] * node.gpu.nvlinks if switched else [
            other for other, count in enumerate(device.links) for _ in range(count)
        ]) + ["cpu"] * node.gpu.to_cpu
        for gpu, device in enumerate(node.gpus)
    }  # fmt: skip
    driver = nvml(wires)
    driver.nvmlDeviceGetCpuAffinity = lambda gpu, _: mask(near[gpu])
    driver.nvmlDeviceGetName = lambda _: next(iter(node.gpu.names), "any")

    lines = []
    for gpu in range(driver.nvmlDeviceGetCount()):
        addresses = [driver.nvmlDeviceGetPciInfo(other).busId.decode() for other in wires]
        ends = [driver.nvmlDeviceGetNvLinkRemotePciInfo(gpu, link).busId for link in range(len(wires[gpu]))]
        links = [-1 if other == gpu else ends.count(address) for other, address in enumerate(addresses)]
        found = live.read_nvml(driver).gpus[gpu]
        assert node.gpu.gres in (found.model or "").lower() or not node.gpu.names
        kind = f" Type={node.gpu.gres}" if node.gpu.names else ""
        cores = format_list(cpus.core_indexes(found.cpu_affinity))
        lines.append(
            f"NodeName=m Name=gpu{kind} File=/dev/nvidia{gpu} Cores={cores} Links={','.join(map(str, links))}"
        )
    assert gres(node, "m", threads) == lines
