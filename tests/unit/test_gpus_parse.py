"""What the parsers make of whole, odd, cut and contradictory recordings."""

import pytest
from gpu_texts import (
    ALIGNED,
    COUNTERS,
    DETAILS,
    LISTING,
    LSCPU,
    MASKS,
    MIG,
    MINSKY,
    MODERN,
    NUMACTL,
    P2P,
    QUERY,
    STATUS,
    WHOLE,
)

from minsky.gpus import RefusedError, Topology, parse

TEXTS = [(source, text) for source, texts in WHOLE.items() for text in texts]


def problems(topology: Topology) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.what) for problem in topology.problems]


@pytest.mark.parametrize(("source", "text"), TEXTS)
def test_a_whole_recording_is_recognised_and_whole(source, text):
    read = parse(text)
    assert (read.source, problems(read), read.complete) == (source, [], True)


def test_a_minsky_has_two_pairs_of_two_links_and_old_words_become_todays():
    read = parse(MINSKY).as_json()
    assert read["links"] == [
        {"a": 0, "b": 1, "count": 2, "active": 2},
        {"a": 2, "b": 3, "count": 2, "active": 2},
    ]
    assert read["paths"] == {
        "GPU0": {"GPU1": "NV2", "GPU2": "SYS", "GPU3": "SYS", "mlx5_0": "SYS"},
        "GPU1": {"GPU2": "SYS", "GPU3": "SYS", "mlx5_0": "SYS"},
        "GPU2": {"GPU3": "NV2", "mlx5_0": "SYS"},
        "GPU3": {"mlx5_0": "SYS"},
    }
    assert [gpu["cpu_affinity"] for gpu in read["gpus"]] == [[0, 8], [0, 8], [16, 24], [16, 24]]
    assert list(read) == ["complete", "source", "gpus", "links", "nics", "paths", "problems"]


def test_newer_columns_an_underlined_header_and_the_nic_legend_are_read():
    read = parse(MODERN)
    assert [(gpu.cpu_affinity, gpu.numa, gpu.numa_id) for gpu in read.gpus] == [
        ([0, 1, 2, 3, 8, 9, 10, 11], [0], None),
        ([4, 5, 6, 7, 12, 13, 14, 15], [1], None),
    ]
    assert [(nic.name, nic.device) for nic in read.nics] == [("NIC0", "mlx5_0")]


def test_numa_affinity_may_be_a_list_or_absent():
    assert [gpu.numa for gpu in parse(ALIGNED).gpus] == [[0, 8, 252, 253, 254, 255], []]


def test_a_number_under_gpu_numa_id_is_the_gpus_own_memory():
    assert parse(MODERN.replace("\t\tN/A", "\t\t9", 1)).gpus[0].numa_id == 9


SAME = {
    "one blank between cells": lambda text: "\n".join(" ".join(line.split()) for line in text.split("\n")),
    "a header without its tab": lambda text: text.replace("\t", "", 1),
    "an indented header": lambda text: text.replace("\t", "     ", 1),
    "a blank line between rows": lambda text: text.replace("\n", "\n\n"),
    "Windows' line ends": lambda text: text.replace("\n", "\r\n"),
    "a prompt above and below": lambda text: f"[root@m01 ~]# nvidia-smi topo -m\n{text}[root@m01 ~]#\n",
    "a prompt of conda's": lambda text: f"(base) me@m01:~$ nvidia-smi topo -m\n{text}(base) me@m01:~$\n",
    "a prompt of zsh's": lambda text: f"\u279c  ~ srun -n 1 nvidia-smi topo -m\n{text}me@m01 ~ %\n",
    "the command above": lambda text: f"sudo /usr/bin/nvidia-smi topo -m\n{text}",
    "a recorded terminal": lambda text: f"Script started on x\n\x1b]0;m01\x07{text}\x1b(B",
    "a quoted mail": lambda text: "".join(f"> {line}\n" for line in text.splitlines()),
    "a script's comment": lambda text: "".join(f"# {line}\n" for line in text.splitlines()),
    "a fenced block": lambda text: f"```\n{text}```\n",
    "unbreakable blanks of a web page": lambda text: text.replace("\t", "\xa0\xa0"),
    "no legend": lambda text: text.split("\n\n")[0],
    "a legend left out": lambda text: text.split("\n\n")[0] + "\n[snip]\n",
    "rows that end after the matrix's last cell": lambda text: text.replace("X \t\n", "X\n"),
}


@pytest.mark.parametrize("change", SAME, ids=str)
def test_copies_read_like_the_original(change):
    original, copy = parse(MINSKY).as_json(), parse(SAME[change](MINSKY)).as_json()
    assert copy == original


def test_rows_and_headers_that_a_terminal_wrapped_are_made_one():
    wrapped = "GPU0 GPU1 GPU2\nGPU3 mlx5_0 CPU Affinity\n" + MINSKY.split("\n", 1)[1].replace(
        "SOC\tSOC\t0-0", "SOC\nSOC\t0-0", 1
    )
    assert parse(wrapped).as_json() == parse(MINSKY).as_json()


def test_a_cell_left_empty_shows_between_tabs_and_not_between_blanks():
    assert parse(MODERN.replace("0-3,8-11", "").replace("4-7,12-15", "")).complete
    read = parse("GPU0 GPU1 CPU Affinity NUMA Affinity\nGPU0 X NV1 0\nGPU1 NV1 X 1\n")
    assert [line for line, _ in problems(read)] == [2, 3]
    assert read.links[0].count == 1
    assert [gpu.numa for gpu in read.gpus] == [[], []]


VIRTUAL = "\tGPU0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\nGPU0\t X \t\t\t\tN/A\n\nLegend:\n"


@pytest.mark.parametrize(
    "text", [VIRTUAL, VIRTUAL.replace("\t", "  "), VIRTUAL.replace("\t\t\t\tN/A", "\t\t\tN/A\t\tN/A")]
)
def test_a_virtual_machine_without_numa_has_no_affinity(text):
    read = parse(text)
    assert (problems(read), read.gpus[0].cpu_affinity, read.gpus[0].numa_id) == ([], [], None)


def test_in_a_cpuset_gpus_may_be_near_to_no_cpu():
    inside = MODERN.replace("4-7,12-15", "")
    read = parse(inside)
    assert (problems(read), [(gpu.cpu_affinity, gpu.numa) for gpu in read.gpus][1]) == ([], ([], [1]))
    assert not parse(inside[: inside.index("\t1\t\tN/A")]).complete
    old = MINSKY.replace("\t16-16,24-24", "\t")  # with nothing behind it
    assert parse(old).complete
    assert not parse(old[: old.index("\nmlx5_0")]).complete


def test_of_outputs_in_one_text_one_is_read_and_the_others_first_line_is_named():
    matrix = MINSKY.split("\n\n")[0] + "\n"
    for text, words in [
        (MINSKY + LISTING, "GPU 0:"), (matrix + STATUS, "GPU 0:"), (MODERN + LSCPU, "On-line"),
        (LSCPU + LISTING, "GPU 0:"), (LISTING + LSCPU, "GPU 0:"), (DETAILS + LSCPU, "On-line"),
    ]:  # fmt: skip
        lines = [line for line, what in problems(parse(text)) if "another command's" in what]
        assert [text.split("\n")[line - 1].startswith(words) for line in lines if line] == [True], text


@pytest.mark.parametrize("mark", ["...", "[snip]", "<snip>", "  \u2026"])
def test_where_lines_are_left_out_of_a_list_it_is_not_whole(mark):
    for text in (LISTING, STATUS, QUERY, DETAILS):
        lines = text.count("\n")
        assert problems(parse(f"{text}{mark}\n")) == [(lines + 1, "lines are left out here")]


def test_fields_that_newer_drivers_have_are_passed_over():
    read = parse("index, encoder.stats.sessionCount, pcie.link.gen.max, shiny.new\n0, 0, 4, x\n")
    assert (problems(read), len(read.gpus)) == ([], 1)


@pytest.mark.parametrize("text", [text for _, text in TEXTS])
def test_a_text_that_is_cut_off_anywhere_is_never_taken_for_another_whole_one(text):
    body = text.split("\n\nLegend")[0].rstrip("\n")
    whole = parse(text).as_json()
    whole["nics"] = []
    for end in range(len(body)):
        try:
            read = parse(body[:end])
        except RefusedError:
            continue
        found = read.as_json() | {"nics": []}
        # Lists have a line per GPU or link and no end, and the last column is not taken.
        at_line_end = "\n" in (body[end], body[:end].rstrip(" \t")[-1:])
        listed = read.source in ("-L", "nvlink --status", "nvlink -g") and at_line_end
        queried = read.source.endswith("csv") and found["gpus"] == whole["gpus"][: len(found["gpus"])]
        assert not read.complete or found == whole or listed or queried, f"cut after {body[:end]!r}"


DAMAGED = {
    "a row is missing": (MINSKY.replace(MINSKY.splitlines(True)[4], ""), 5, "GPU3"),
    "a row is short": (MODERN.replace("NV12\tPXB\t0-3,8-11\t0\t\tN/A", "NV1"), 2, "2 of 3 cells"),
    "both directions differ": (MINSKY.replace("NV2\t X ", "NV1\t X ", 1), 3, "NV1, but NV2 in line 2"),
    "a word is unknown": (MINSKY.replace("SOC\tSOC\tNV2", "SOC\tSUC\tNV2"), 5, "SUC"),
    "the diagonal is shifted": (MINSKY.replace("NV2\t X \tSOC", "X\tNV2\tSOC", 1), 3, "cells are missing"),
    "a list of CPUs is cut": (MODERN.replace("4-7,12-15", "4-7,12-"), 3, "4-7,12-"),
    "a list of CPUs runs backwards": (MODERN.replace("4-7,12-15", "7-4"), 3, "7-4"),
    "a list of NUMA nodes is cut": (
        ALIGNED.replace("N/A", "0,8\n").replace("64-127", "0-63  "), 3, "not their NUMA nodes",
    ),
    "a model is cut": ("index, name\n0, Tesla P100-SXM2-16GB\n1, Tesla P1", 3, "may be what is left"),
    "CPUs half shared": (MINSKY.replace("24-24\nGPU3", "25-25\nGPU3"), 5, "share some CPUs"),
    "two recordings": (MINSKY + MINSKY, 13, "second header"),
    "a row twice": (MINSKY.replace("\nGPU1\t", "\nGPU0\t"), 3, "second row"),
    "a GPU left out": (MODERN.replace("GPU1", "GPU2"), 2, "GPU 1 is missing"),
    "no header": (MINSKY.split("\n", 1)[1], 1, "no header"),
    "words between rows": (MINSKY.replace("GPU2\t", "now the other socket\nGPU2\t", 1), 1, ""),
    "a lost GPU": (
        "Unable to determine the device handle for GPU 0000:05:00.0: GPU is lost.  Reboot\n" + MINSKY,
        1, "00000000:05:00.0 does not answer: GPU is lost",
    ),
    "a GPU without UUID": (LISTING[: LISTING.rindex(" (UUID")], 2, "no UUID"),
    "a MIG device cut": (MIG.replace("0/3/0)", "0/3"), 3, "MIG device"),
    "one UUID twice": (LISTING.replace("551)", "550)"), 2, "second time"),
    "a link's line cut": (STATUS.replace("Link 1: 19.531 GB/s", "Link 1: 19.5"), 3, "cut off"),
    "a link left out": (STATUS.replace("\t Link 1: 19.531 GB/s\n", "", 1), 1, "some are missing"),
    "the last GPU has fewer links": ("".join(STATUS.splitlines(True)[:-1]), 9, "3 links"),
    "a GPU without links": ("".join(STATUS.splitlines(True)[:6]), 6, "no links follow"),
    "links of no GPU": ("".join(STATUS.splitlines(True)[3:]), 1, "before any GPU"),
    "a short row": (QUERY.replace(", 16280 MiB, [N/A]", ""), 3, "4 cells where 6"),
    "a lost GPU's cell": (QUERY.replace("16280 MiB, [N/A]", "[GPU is lost], [N/A]"), 3, "GPU is lost"),
    "an error's cell": (QUERY.replace("16280 MiB, [N/A]", "ERR!, [N/A]"), 3, "ERR!"),
    "an index left out": (QUERY.replace("\n1, ", "\n2, "), 3, "GPU 1 is missing"),
    "rows without end": (QUERY.split("\n")[0], 1, "no row follows"),
    "GPUs that are not told of": (DETAILS.replace(": 1\n", ": 4\n"), 5, "4 GPUs are attached, 1 told of"),
    "a log without its end": (DETAILS.split("    BAR1")[0], 13, "cut off"),
    "a NUMA node left out": (LSCPU.replace("NUMA node255 CPU(s):\n", ""), 7, "3 NUMA nodes"),
    "CPUs that contradict": (LSCPU.replace("8-15\n", "8-14\n"), 11, "0-15 are online"),
    "no distances": (NUMACTL.split("node distances")[0], 11, "distances"),
    "a node not told of": (NUMACTL.replace("node 8 size: 261728 MB\n", ""), 15, "8"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_damaged_is_incomplete_and_its_line_is_named(damage):
    text, line, words = DAMAGED[damage]
    read = parse(text)
    assert not read.complete
    if words:
        assert any(where == line and words in what for where, what in problems(read)), problems(read)


def test_what_is_left_of_a_cell_is_not_taken_for_one():
    cut = parse(MODERN[: MODERN.index("2\tPXB")])  # NV1 of NV12
    assert (cut.complete, cut.links, cut.paths) == (False, [], {})


def test_a_contradiction_is_not_decided():
    read = parse(DAMAGED["both directions differ"][0])
    assert [(link.a, link.b) for link in read.links] == [(2, 3)]
    assert "GPU1" not in read.paths["GPU0"]


LOST = [
    "Unable to determine the device handle for GPU 0000:05:00.0: GPU is lost.  Reboot the system to recover",
    "Unable to determine the device handle for GPU3: 0000:05:00.0: Unknown Error",
    "Unable to determine the device handle for GPU0000:05:00.0: Not Found",
    "Unable to determine the device handle for gpu 0000:05:00.0: Unable to communicate with GPU",
    "GPU3: 0000:05:00.0: GPU is lost.",
]


@pytest.mark.parametrize("spelling", LOST)
@pytest.mark.parametrize(("text", "gpus"), [(LISTING, 2), (QUERY, 2), (STATUS, 2), (MINSKY, 4)])
def test_a_lost_gpu_in_any_spelling_is_told_among_good_rows(spelling, text, gpus):
    read = parse(f"{text}{spelling}\n")
    assert len(read.gpus) == gpus
    assert not read.complete
    assert "GPU 00000000:05:00.0 does not answer" in problems(read)[-1][1]


@pytest.mark.parametrize(
    "words",
    [
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that ...",
        "No devices were found",
        "No devices found.",
        "Failed to initialize NVML: Driver/library version mismatch",
        LOST[0],
    ],
)
def test_a_driver_that_fails_is_read_as_a_problem(words):
    read = parse(f"{words}\n")
    assert (read.complete, read.gpus, len(read.problems), read.problems[0].line) == (False, [], 1, 1)


def test_links_tell_speed_and_state_and_no_pairs():
    read = parse(STATUS)
    assert [(link.gb_s, link.active) for link in read.gpus[0].nvlinks or []] == [
        (19.531, True), (19.531, True), (None, False), (20.0, True),
    ]  # fmt: skip
    assert read.links == []


def test_counters_cannot_tell_whether_a_link_is_up():
    assert [link.active for link in parse(COUNTERS).gpus[0].nvlinks or []] == [None, None]


def test_newer_counters_have_two_lines_per_link():
    read = parse("GPU 0: H100 (UUID: GPU-aaaa)\n\t Link 0: Data Tx: 0 KiB\n\t Link 0: Data Rx: 12 KiB\n")
    assert (read.complete, len(read.gpus[0].nvlinks or [])) == (True, 1)


def test_a_sentence_instead_of_links_may_stand_on_the_gpus_line_or_alone():
    head = "GPU 0: RTX A4000 (UUID: GPU-aaaa)"
    none = parse(f"{head} Device does not have or support Nvlink\n")
    assert (none.complete, none.gpus[0].nvlinks) == (True, [])
    down = parse(f"{head}\nNVML: Unable to retrieve NVLink information as all links are inActive\n")
    assert (down.complete, down.gpus[0].nvlinks, down.problems[0].line) == (False, None, 2)
    alone = parse("NVML: Unable to retrieve Nvlink information as all links are inActive\n")
    assert (alone.complete, alone.gpus, alone.source) == (False, [], "nvlink --status")


def test_rows_without_a_header_are_read_where_nothing_can_be_mistaken():
    read = parse("0, 00000000:01:00.0, GeForce RTX 3080, 61\n2, 00000000:03:00.0, GeForce RTX 3080, 44\n")
    assert [(gpu.index, gpu.bus_id, gpu.model, gpu.memory_mib) for gpu in read.gpus] == [
        (0, "00000000:01:00.0", "GeForce RTX 3080", None),
        (2, "00000000:03:00.0", "GeForce RTX 3080", None),
    ]
    assert "GPU 1 is missing" in read.problems[0].what


def test_units_may_be_left_out():
    assert parse(QUERY.replace(" MiB,", ",")).gpus[1].memory_mib == 16280


def test_the_log_gives_who_a_gpu_is_and_its_own_memory():
    gpu = parse(DETAILS).gpus[0]
    assert (gpu.model, gpu.bus_id, gpu.memory_mib) == ("Tesla P100-SXM2-16GB", "00000002:01:00.0", 16280)
    section = (
        "Attached GPUs : 1\nGPU 0002:01:00.0\n    FB Memory Usage\n  Total : 16280 MiB\n  Used : 0 MiB\n"
    )
    assert (parse(section).complete, parse(section).gpus[0].memory_mib) == (True, 16280)


def test_mig_devices_belong_to_their_gpu():
    assert [device["profile"] for device in parse(MIG).gpus[0].mig] == ["1g.5gb", "2g.10gb"]


def test_processors_and_the_memory_of_gpus_are_told_apart():
    cpus = parse(LSCPU).cpus
    assert cpus is not None
    assert (cpus.sockets, cpus.cores, cpus.threads) == (2, 2, 4)
    assert [(node.node, len(node.cpus)) for node in cpus.numa] == [(0, 8), (8, 8), (255, 0)]
    masks = parse(MASKS).cpus
    assert masks is not None
    assert (masks.online, [node.cpus for node in masks.numa]) == ([0, 8], [[0], [8]])
    numa = parse(NUMACTL).cpus
    assert numa is not None
    assert [(node.cpus, node.memory_mib) for node in numa.numa][0::2] == [(list(range(8)), 257716), ([], 0)]
    assert numa.distances["8"] == [40, 10, 80]


REFUSED = {
    "": "empty",
    "\n \n": "empty",
    P2P: "topo -p2p",
    P2P.split("\n\n")[0]: "topo -p2p",
    "| NVIDIA-SMI 535.1  Driver Version: 535.1  CUDA Version: 12.2 |\n": "plain nvidia-smi table",
    "GPU 0: Tesla V100\n\t Link 0, P2P is supported: true\n": "nvlink --capabilities",
    "GPU 0: Tesla V100\n\t Link 0: Replay Errors: 0\n": "nvlink --errorcounters",
    "gpu_uuid, pid, used_gpu_memory [MiB]\nGPU-aaaa, 12, 9 MiB\n": "--query-compute-apps",
    "gpu_uuid, retired_pages.address, retired_pages.cause\nGPU-aaaa, 0x01, Double Bit ECC\n": "retired-pages",
    "GPU 0: NVIDIA B200 (UUID: GPU-aaaa)\n\t NVLE: disabled\n": "nvlink --info",
    "name, age\nada, 36\n": "no output of a command",
    "<?xml version='1.0' ?>\n<nvidia_smi_log>\n": "XML",
    "Core   0:    0*    1*\n": "ppc64_cpu --info",
    "CA 'mlx5_0'\n\tCA type: MT4129\n": "ibstat",
    "# gpu   pwr\n# Idx     W\n    0    35\n": "nvidia-smi pmon or dmon",
    "Machine (P#0 total=3KB)\n": "lstopo",
    'Applications clocks set to "(MEM 715, SM 1328)" for GPU 0002:01:00.0\n': "--applications-clocks",
    "GPUs are fun\n": "no output of a command",
    f"{MINSKY}{' ' * 9000}GPU": "8192 characters",
}


@pytest.mark.parametrize("text", REFUSED)
def test_other_commands_are_refused_by_name(text):
    with pytest.raises(RefusedError, match=REFUSED[text].replace("(", r"\(")):
        parse(text)
