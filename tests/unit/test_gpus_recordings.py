"""Every recording of a collection of public ones, against a table written from the texts themselves.

MINSKY_TOPOLOGIES names the collection; without it, `topologies` beside the `data` that MINSKY_DATA names. The
table gives the GPUs that a text tells of, the pairs of GPUs with NVLinks between them, and the exit status:
0 whole, 1 read but cut off or with a failure in it, 2 another command's output, or nothing.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from minsky.errors import speak_plainly
from minsky.gpus.__main__ import main

DATA = os.environ.get("MINSKY_DATA", "")
RECORDINGS = Path(
    os.environ.get("MINSKY_TOPOLOGIES") or (Path(DATA).parent / "topologies" if DATA else "none")
)
if not RECORDINGS.is_dir():
    pytest.skip(
        f"no recordings in '{RECORDINGS}': name their directory by MINSKY_TOPOLOGIES", allow_module_level=True
    )

CUBE_MESH_ALIYUN = {
    "0-1": 1, "0-2": 1, "0-3": 2, "0-6": 2, "1-2": 2, "1-3": 1, "1-7": 2, "2-3": 2, "2-4": 1, "3-5": 1,
    "4-5": 2, "4-6": 1, "4-7": 2, "5-6": 2, "5-7": 1, "6-7": 1,
}  # fmt: skip
CUBE_MESH_DGX1 = {
    "0-1": 1, "0-2": 1, "0-3": 2, "0-4": 2, "1-2": 2, "1-3": 1, "1-5": 2, "2-3": 2, "2-6": 1, "3-7": 1,
    "4-5": 1, "4-6": 1, "4-7": 2, "5-6": 2, "5-7": 1, "6-7": 2,
}  # fmt: skip


def every(gpus: range, count: int) -> dict[str, int]:
    return {f"{a}-{b}": count for a in gpus for b in gpus if a < b}


TABLE = {
    "a100_2gpu_runpod_topo": (2, {"0-1": 12}, 0),
    "a100_2gpu_two_sockets_topo": (2, {"0-1": 12}, 0),
    "a100_8gpu_nvlink_status_gpud": (8, {}, 0),
    "a100_pcie_adroit_h11g2_topo": (4, {}, 0),
    "a100_pcie_della_i14g20_2gpu_topo": (2, {}, 0),
    "a100_pcie_nvlink_all_inactive": (0, {}, 1),
    "a100_sxm_della_i16g1_topo": (4, every(range(4), 4), 0),
    "a10_nvlink_status_no_nvlink_gpud": (0, {}, 2),
    "a800_8gpu_nv8_first_rows_topo": (8, every(range(8), 8), 1),
    "ac922_02_numactl_H_gpu_memory_online": (0, {}, 0),
    "ac922_6gpu_lscpu": (0, {}, 0),
    "ac922_gtw_lstopo_excerpt": (0, {}, 2),
    "ac922_numactl_H_gpu_memory_offline": (0, {}, 0),
    "ac922_traverse_4xv100_topo": (4, {"0-1": 3, "2-3": 3}, 0),
    "ac922_traverse_lscpu": (0, {}, 0),
    "aliyun_8xv100_topo_cpu_affinity_only": (8, CUBE_MESH_ALIYUN, 0),
    "dgx1v_8xv100_topo": (8, CUBE_MESH_DGX1, 0),
    "dgx1v_nvlink_capabilities": (0, {}, 2),
    "err_gpu_lost_smi": (0, {}, 1),
    "err_no_devices": (0, {}, 1),
    "err_smi_failed_driver": (0, {}, 1),
    "err_unknown_error_query_csv_gap": (7, {}, 1),
    "h100_dgx_talos_truncated_rows_topo": (8, every(range(8), 18), 1),
    "h100_nccl1264_first_rows_topo": (8, every(range(8), 18), 1),
    "ibstat_h100_some_down_gpud": (0, {}, 2),
    "ibstat_ibpanic_exit255_gpud": (0, {}, 2),
    "mig_a100_sxm4_1dev_nvidia_smi": (0, {}, 2),
    "mig_a100_sxm4_40gb_7x1g_L": (1, {}, 0),
    "minsky_cloudlab_ibm8335_2xp100_nvidia_smi_L": (2, {}, 0),
    "minsky_s822lc_4xp100_smt1_topo": (4, {"0-1": 2, "2-3": 2}, 0),
    "minsky_s822lc_set_application_clocks": (0, {}, 2),
    "minsky_s822lc_smt1_lscpu_mask": (0, {}, 0),
    "minsky_s822lc_smt8_numactl_H": (0, {}, 0),
    "minsky_s822lc_smt8_ppc64_cpu_info": (0, {}, 2),
    "nvidia_smi_525_fan_err_gpud": (0, {}, 2),
    "nvidia_smi_550_table_gpud": (0, {}, 2),
    "nvidia_smi_q_535_183_invalid_gpud": (1, {}, 1),
    "nvidia_smi_q_560_gpud": (1, {}, 0),
    "nvidia_smi_q_a10_535_gpud": (1, {}, 0),
    "nvlink_verdict_on_header_line": (2, {}, 1),
    "p100_nvlink1_4gpu_nvlink_g1_counters": (4, {}, 0),
    "p100_nvlink_4gpu_nvidia_smi_L": (4, {}, 0),
    "pcie_1gpu_topo_gist_collapsed": (1, {}, 0),
    "pcie_4gpu_soc_topo_gist_collapsed": (4, {}, 0),
    "power9_sqream_2xv100_nvidia_smi": (0, {}, 2),
    "quadro_rtx8000_2gpu_nvlink_status": (2, {}, 0),
    "rtx3090_2gpu_nv4_topo": (2, {"0-1": 4}, 0),
    "rtx4090_8gpu_all_sys_nic_rows_topo": (8, {}, 0),
    "rtx5090_2gpu_phb_topo": (2, {}, 0),
    "synthetic_h200_two_nvl4_islands_topo": (8, every(range(4), 18) | every(range(4, 8), 18), 0),
    "v100_4gpu_nvlink_status": (4, {}, 0),
    "v100_mixed_4_and_5_links_nvlink_g0_counters": (4, {}, 0),
    "x86_amd_della_i16g1_numactl_H": (0, {}, 0),
}


def show(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    argv = ["show", "--json", "--recorded", str(RECORDINGS / f"{name}.txt")]
    status = speak_plainly(lambda: main(argv))
    out, err = capsys.readouterr()
    return status, json.loads(out or '{"gpus": [], "links": []}'), err


@pytest.mark.parametrize("name", TABLE)
def test_a_recording_reads_as_its_text_says(name, capsys):
    gpus, pairs, expected = TABLE[name]
    status, read, err = show(name, capsys)
    found = {f"{link['a']}-{link['b']}": link["count"] for link in read["links"]}
    assert (len(read["gpus"]), found, status) == (gpus, pairs, expected), err or read["problems"]
    if status == 1:
        assert read["problems"][0]["line"]
    assert bool(err) == (status == 2)


def test_the_table_has_every_recording():
    assert sorted(TABLE) == sorted(file.stem for file in RECORDINGS.glob("*.txt"))


NVLINKS = {
    "a100_8gpu_nvlink_status_gpud": Counter({(12, 25.0, True): 8}),
    "quadro_rtx8000_2gpu_nvlink_status": Counter({(2, 25.781, True): 2}),
    "v100_4gpu_nvlink_status": Counter({(6, 25.781, True): 4}),
    "p100_nvlink1_4gpu_nvlink_g1_counters": Counter({(4, None, None): 4}),
    "v100_mixed_4_and_5_links_nvlink_g0_counters": Counter({(4, None, None): 2, (5, None, None): 2}),
}


@pytest.mark.parametrize("name", NVLINKS)
def test_each_gpus_own_links_are_counted(name, capsys):
    links = [gpu["nvlinks"] for gpu in show(name, capsys)[1]["gpus"]]
    assert Counter((len(each), each[0]["gb_s"], each[0]["active"]) for each in links) == NVLINKS[name]


def test_affinities_are_read_in_every_spelling(capsys):
    cpus = {
        "minsky_s822lc_4xp100_smt1_topo": [[*range(0, 80, 8)]] * 2 + [[*range(80, 160, 8)]] * 2,
        "a100_pcie_adroit_h11g2_topo": [[0, 2, 4, 6, 8, 10]] * 2 + [[1, 3, 5, 7, 9, 11]] * 2,
        "dgx1v_8xv100_topo": [[*range(20), *range(40, 60)]] * 4 + [[*range(20, 40), *range(60, 80)]] * 4,
        "pcie_1gpu_topo_gist_collapsed": [[*range(8)]],
    }
    for name, expected in cpus.items():
        assert [gpu["cpu_affinity"] for gpu in show(name, capsys)[1]["gpus"]] == expected, name
    traverse = show("ac922_traverse_4xv100_topo", capsys)[1]
    assert [gpu["numa"] for gpu in traverse["gpus"]] == [[0], [0], [8], [8]]
    assert [nic["name"] for nic in traverse["nics"]] == ["mlx5_0", "mlx5_1", "mlx5_2", "mlx5_3"]


def test_memory_of_gpus_is_told_from_that_of_processors(capsys):
    online = show("ac922_02_numactl_H_gpu_memory_online", capsys)[1]["cpus"]["numa"]
    assert [node["memory_mib"] for node in online if not node["cpus"]] == [32256] * 4
    offline = show("ac922_numactl_H_gpu_memory_offline", capsys)[1]["cpus"]
    assert [node["memory_mib"] for node in offline["numa"] if not node["cpus"]] == [0] * 4
    assert offline["online"] == [*range(128)]
    masks = show("minsky_s822lc_smt1_lscpu_mask", capsys)[1]["cpus"]
    assert [node["cpus"] for node in masks["numa"]] == [[*range(0, 80, 8)], [*range(80, 160, 8)]]
