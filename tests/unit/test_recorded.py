"""nodecheck on recordings: what each says of the node's class, and the words for each error in it."""

import json

import pytest

from minsky.errors import MinskyError
from minsky.nodecheck import node as nodes
from minsky.nodecheck.__main__ import main

MODEL = "Tesla P100-SXM2-16GB"


def listing(gpus=(0, 1, 2, 3), model=MODEL):
    return "".join(
        f"GPU {gpu}: {model} (UUID: GPU-00000000-1111-2222-3333-44444444444{gpu})\n" for gpu in gpus
    )


def topo(rows=4, pair="NV2"):
    """The matrix of a Minsky whose GPUs 2 and 3 are joined by *pair*."""
    near = ("0-79", "0-79", "80-159", "80-159")
    text = "\tGPU0\tGPU1\tGPU2\tGPU3\tmlx5_0\tmlx5_1\tCPU Affinity\n"
    for gpu in range(rows):
        cells = ["X" if gpu == other else "SOC" for other in range(4)]
        cells[gpu ^ 1] = "NV2" if gpu < 2 else pair
        text += "\t".join([f"GPU{gpu}", *cells, "SOC", "SOC", near[gpu]]) + "\n"
    for nic in range(2) if rows == 4 else ():
        text += "\t".join([f"mlx5_{nic}", *["SOC"] * 4, *(["X", "PIX"] if nic == 0 else ["PIX", "X"])]) + "\n"
    return text


def status(inactive=()):
    lines = []
    for gpu, name in enumerate(listing().splitlines()):
        links = ["<inactive>" if (gpu, link) in inactive else "19.531 GB/s" for link in range(4)]
        lines += [name, *(f"\t Link {number}: {state}" for number, state in enumerate(links))]
    return "\n".join(lines) + "\n"


LSCPU = (
    "On-line CPU(s) list: 0-159\nThread(s) per core: 8\nCore(s) per socket: 10\nSocket(s): 2\n"
    "NUMA node(s): 2\n"
    "NUMA node0 CPU(s): 0-79\nNUMA node1 CPU(s): 80-159\n"
)


@pytest.fixture
def judge(tmp_path, monkeypatch, capsys):
    """What nodecheck says of texts as recordings of a Minsky: its exit status, and the findings by check."""
    monkeypatch.setattr(nodes, "FILE", tmp_path / "none.yml")  # this machine may be a node

    def run(*texts, node_class="minsky-p100"):
        argv = ["--class", node_class, "--json"]
        for number, text in enumerate(texts):
            file = tmp_path / f"{number}.txt"
            file.write_text(text)
            argv += ["--recorded", str(file)]
        status = main(argv)
        told = json.loads(capsys.readouterr().out)
        return status, {each["name"]: each for each in told["checks"]}

    return run


def verdicts(checks):
    return {name: each["verdict"] for name, each in checks.items() if each["verdict"] != "skipped"}


def test_a_whole_recording_passes_the_checks_of_which_it_tells_and_no_others(judge):
    code, checks = judge(topo(), listing(), status(), LSCPU)
    assert code == 0
    told = ("driver", "gpus", "nvlinks", "processors", "smt", "numa")
    assert verdicts(checks) == dict.fromkeys(told, "ok")
    assert checks["munge"]["found"] == "a recording does not tell"
    assert checks["munge"]["do"] == ""
    assert "host-to-device" not in checks


@pytest.mark.parametrize(
    ("text", "told"),
    [(topo(), {"driver", "gpus", "nvlinks"}), (listing(), {"driver", "gpus"}), (status(), {"driver", "gpus",
      "nvlinks"}), (LSCPU, {"processors", "smt", "numa"})],
    ids=["topo -m", "-L", "nvlink --status", "lscpu"],
)  # fmt: skip
def test_one_command_is_judged_as_far_as_it_tells(text, told, judge):
    code, checks = judge(text)
    assert (code, verdicts(checks)) == (0, dict.fromkeys(told, "ok"))
    if text == LSCPU:
        assert checks["gpus"]["found"] == "no output of nvidia-smi is recorded"
    if text == listing():
        assert checks["nvlinks"]["found"] == "-L does not tell"


UNABLE = "Unable to determine"
LOST = {
    "by address": (f"{UNABLE} the device handle for GPU 0006:01:00.0: GPU is lost.  Reboot", "GPU is lost"),
    "by number and address": (
        f"{UNABLE} the device handle for GPU2: 00000006:01:00.0: Unknown Error", "Unknown Error",
    ),
    "by number": (f"{UNABLE} the device handle for GPU 2: Not Found", "GPU 2 does not answer: Not Found"),
    "in small letters": (f"{UNABLE} device handle for gpu 0006:01:00.0: Unknown Error", "Unknown Error"),
    "in few words": ("GPU0006:01:00.0: GPU is lost", "GPU 00000006:01:00.0 does not answer: GPU is lost"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", LOST)
def test_a_lost_gpu_is_named_however_the_driver_spells_it(spelling, judge):
    line, words = LOST[spelling]
    code, checks = judge(f"{line}\n{listing((0, 1, 3))}")
    assert (code, checks["gpus"]["verdict"], checks["driver"]["verdict"]) == (1, "failed", "ok")
    assert words in checks["gpus"]["found"]
    assert "does not answer" in checks["gpus"]["found"]
    assert "power cycle" in checks["gpus"]["do"]


RED = {
    "a dead driver": (
        ["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Is it running?\n"],
        {"driver", "gpus", "nvlinks"}, "driver", "NVIDIA-SMI has failed", "modprobe nvidia",
    ),
    "no GPU at all": (
        ["No devices were found\n"], {"driver", "gpus", "nvlinks"}, "driver", "No devices", "dmesg",
    ),
    "a pair with one link": (
        [topo(pair="NV1")], {"nvlinks"}, "nvlinks", "links GPU 2 to GPU 3: 1", "reset the GPUs",
    ),
    "a pair that is not wired": (
        [topo(pair="SOC")], {"nvlinks"}, "nvlinks", "links GPU 2 to GPU 3: 0", "reset the GPUs",
    ),
    "a link that is inactive": (
        [topo(), status({(1, 3)})], {"nvlinks"}, "nvlinks", "GPU 1: 3 of 4 active", "nvidia-smi -r",
    ),
    "another model": (
        [listing(model="Tesla V100-SXM2-16GB")], {"gpus"}, "gpus", "model: Tesla V100-SXM2-16GB", "class",
    ),
    "a GPU too few": ([listing((0, 1, 2))], {"gpus"}, "gpus", "GPUs: 3", "node's class"),
    "a matrix without its end": (
        [topo()[:-70]], {"gpus", "nvlinks"}, "nvlinks", "cut off", "record it again",
    ),
    "rows that are missing": ([topo(rows=2)], {"gpus", "nvlinks"}, "nvlinks", "GPU2", "record it again"),
    "another number of cores": (
        [LSCPU.replace("socket: 10", "socket: 8")], {"processors"}, "processors", "2 x 8", "lscpu",
    ),
    "processors without their end": (
        [LSCPU[:-22], listing()], {"processors", "smt", "numa"}, "numa", "", "record it again",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", RED)
def test_an_error_in_a_recording_is_found_by_its_check_with_what_to_do(fault, judge):
    texts, red, name, found, do = RED[fault]
    code, checks = judge(*texts)
    assert code == 1
    assert {check for check, verdict in verdicts(checks).items() if verdict == "failed"} == red
    assert found in checks[name]["found"], checks[name]
    assert do in checks[name]["do"], checks[name]


P2P = "\tGPU0\tGPU1\nGPU0\tX\tOK\nGPU1\tOK\tX\n"


@pytest.mark.parametrize(
    ("texts", "words"),
    [([P2P], "0.txt: this is 'topo -p2p'"), (["SMT=8\n"], "record lscpu"), ([""], "the text is empty"),
     ([topo(), topo(pair="NV1")], "not of one node")],
    ids=["topo -p2p", "ppc64_cpu", "nothing", "two nodes"],
)  # fmt: skip
def test_what_is_no_recording_of_a_node_is_refused_by_its_name(texts, words, judge):
    with pytest.raises(MinskyError) as caught:
        judge(*texts)
    assert words in str(caught.value)
