"""Node classes: what is in the files, what is refused, what Slurm's lines and proposals are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gpu_texts import LISTING, MINSKY, STATUS

from minsky.errors import MinskyError
from minsky.gpus import Topology, parse
from minsky.gpus.__main__ import main
from minsky.gpus.classes import CLASSES, NONE, ClassError, NodeClass, available, load, read
from minsky.gpus.compare import closest, compare
from minsky.gpus.model import cpu_list, merge
from minsky.gpus.propose import propose
from minsky.gpus.slurm import fragments, node_names

GOLDEN = Path(__file__).parent / "golden" / "slurm"
PLAIN = (CLASSES / "minsky-p100.yml").read_text()


def minsky(first: str, second: str, words: str = "SOC") -> str:
    """A whole Minsky's matrix, with the CPUs near each pair of GPUs."""
    return (
        "\tGPU0\tGPU1\tGPU2\tGPU3\tmlx5_0\tmlx5_1\tCPU Affinity\n"
        f"GPU0\t X \tNV2\t{words}\t{words}\t{words}\t{words}\t{first}\n"
        f"GPU1\tNV2\t X \t{words}\t{words}\t{words}\t{words}\t{first}\n"
        f"GPU2\t{words}\t{words}\t X \tNV2\t{words}\t{words}\t{second}\n"
        f"GPU3\t{words}\t{words}\tNV2\t X \t{words}\t{words}\t{second}\n"
        f"mlx5_0\t{words}\t{words}\t{words}\t{words}\t X \tPIX\t\n"
        f"mlx5_1\t{words}\t{words}\t{words}\t{words}\tPIX\t X \t\n"
    )


OFF = ",".join(f"{cpu}-{cpu}" for cpu in range(0, 80, 8)), ",".join(f"{c}-{c}" for c in range(80, 160, 8))
SMT8 = "0-79", "80-159"


@pytest.mark.parametrize("name", available())
def test_a_class_in_the_tree_holds_together_and_tells_its_sources(name):
    node = load(name)
    assert name != NONE, "of that name are nodes without GPUs: nothing would read the file"
    assert [row.what for row in compare(node.topology(), node) if row.same is False] == []
    told = [node.provenance, node.cpus.source, node.gpu.source, node.nics.source,
            node.floors.peer.source, node.floors.host_to_device.source]  # fmt: skip
    told += [node.nvlink.source] if node.nvlink else []
    assert all(len(source) > 8 for source in told)


def test_the_classes_that_users_are_told_of_are_there():
    power = {"minsky-p100", "minsky-p100-2gpu", "ac922-4gpu", "ac922-6gpu"}
    x86 = {"dgx1-p100", "dgx1-v100", "dgx-a100", "hgx-h100", "hgx-h200", "pcie"}
    assert power | x86 <= set(available())


def test_a_minsky_is_two_pairs_with_two_links_each_and_two_to_the_processor():
    node = load("minsky-p100")
    assert [device.links for device in node.gpus] == [
        [-1, 2, 0, 0],
        [2, -1, 0, 0],
        [0, 0, -1, 2],
        [0, 0, 2, -1],
    ]
    assert (node.gpu.nvlinks, node.gpu.to_cpu, node.nvlink and node.nvlink.gb_s) == (4, 2, 20)
    assert node.floors.host_to_device.gb_s == 28


CONTRADICTIONS = {
    "an asymmetric matrix": (
        "links: [ 2, -1,  0,  0]", "links: [ 1, -1,  0,  0]", "gpus[1].links", "symmetric",
    ),
    "links to itself": ("links: [ 2, -1,  0,  0]", "links: [ 2,  0,  0,  0]", "gpus[1].links", "for itself"),
    "a short row": (
        "links: [ 2, -1,  0,  0]", "links: [ 2, -1,  0]", "gpus[1].links", "3 entries for 4 GPUs",
    ),
    "more links than the GPU has": ("nvlinks: 4", "nvlinks: 3", "gpus[0].links", "these are 4 NVLinks"),
    "cores off a socket's boundary": (
        "cores: 0-9, links: [ 2", "cores: 0-10, links: [ 2", "gpus[1].cores", "0-9",
    ),
    "cores in words": ("cores: 0-9, links: [ 2", "cores: few, links: [ 2", "gpus[1].cores", "few"),
    "a socket there is not": ("socket: 1, cores", "socket: 2, cores", "gpus[2].socket", "none of the 2"),
    "an unknown key": (
        "  gres: p100", "  gres: p100\n  speed: 3", "gpu", "unknown key speed; there are names",
    ),
    "a misspelt key": ("provenance:", "provenence:", "provenance", "missing"),
    "a key twice": ("  gres: p100", "  gres: p100\n  gres: v100", "", "gres stands twice"),
    "a missing key": ("  gres: p100\n", "", "gpu.gres", "missing"),
    "text for a number": ("  cores: 10", "  cores: ten", "cpus.cores", "'ten' is not a whole number"),
    "a truth for a number": ("  cores: 10", "  cores: true", "cpus.cores", "True is not a whole number"),
    "a list for a number": ("  cores: 10", "  cores: [1]", "cpus.cores", "not a whole number"),
    "no cores": ("  cores: 10", "  cores: 0", "cpus.cores", "at least one"),
    "an unknown numbering": ("numbering: block", "numbering: odd", "cpus.numbering", "split"),
    "SMT beyond the hardware": ("smt: [1, 2, 4, 8]", "smt: [1, 16]", "cpus.smt", "1 to 8"),
    "SMT out of order": ("smt: [1, 2, 4, 8]", "smt: [8, 1]", "cpus.smt", "fewest first"),
    "a NUMA node twice": ("numa: [0, 1]", "numa: [0, 0]", "cpus.numa", "each once"),
    "CPUs on a GPU's NUMA node": (
        "numa: [0, 1]", "numa: [0, 1]\n  gpu_numa: [1]", "cpus.gpu_numa", "each once",
    ),
    "a NUMA node below all": ("numa: [0, 1]", "numa: [-1, 0]", "cpus.numa", "numbers"),
    "less than no memory": ("memory_mib: 16280", "memory_mib: -1", "gpu.memory_mib", "less than none"),
    "less than no ports": ("ports: 2", "ports: -2", "nics.ports", "less than none"),
    "a model without a name": ('["Tesla P100-SXM2-16GB"]', '[""]', "gpu.names", "no model"),
    "an empty type": ("gres: p100", 'gres: ""', "gpu.gres", "no type"),
    "a floor above the links": ("    gb_s: 28", "    gb_s: 280", "floors.host_to_device.gb_s", "carry 40"),
    "an address that is none": ('bus_id: "0003:01:00.0"', 'bus_id: "3:1"', "gpus[1].bus_id", "PCI"),
    "a type that Slurm has not": ("gres: p100", "gres: P100/16", "gpu.gres", "P100/16"),
    "links without a wire": (PLAIN[PLAIN.index("nvlink:") : PLAIN.index("gpus:")], "", "nvlink", "missing"),
    "a floor that is no number": ("    gb_s: 28", "    gb_s: .nan", "floors", "is no bandwidth"),
    "links without speed": ("  gb_s: 20\n", "  gb_s: 0\n", "nvlink.gb_s", "no speed"),
    "less than no links": ("to_cpu: 2", "to_cpu: -2", "gpu.to_cpu", "no number of links"),
    "an address twice": ('"0003:01', '"0002:01', "gpus", "00000002:01:00.0 stands twice"),
    "cores without end": ("  cores: 10", "  cores: 100000000000", "cpus.cores", "1024 at most"),
    "a day that does not exist": ("title: ", "title: 2024-13-45 #", "", "no YAML"),
    "no YAML": ("title: ", "title: [", "", "no YAML"),
    "no keys": (PLAIN, "- 1\n", "", "no list of keys"),
}  # fmt: skip


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_class_that_contradicts_itself_is_refused_with_file_and_key(contradiction):
    old, new, key, words = CONTRADICTIONS[contradiction]
    assert old in PLAIN
    with pytest.raises(ClassError) as caught:
        read(PLAIN.replace(old, new, 1), Path("mine.yml"))
    said = str(caught.value)
    assert said.startswith("mine.yml")
    assert any(key in line and words in line for line in said.splitlines()), said


def test_an_unknown_class_is_refused_with_the_one_that_was_meant():
    with pytest.raises(ClassError, match="did you mean minsky-p100"):
        load("minsky-p10")
    with pytest.raises(ClassError, match="cannot be read"):
        load("/nowhere/mine.yml")


def test_both_smt_settings_of_a_minsky_are_the_same_cores():
    cpus = load("minsky-p100").cpus
    for off, smt8, cores in zip(OFF, SMT8, (range(10), range(10, 20)), strict=True):
        assert cpus.core_indexes(list(cpu_list(off) or ())) == [*cores]
        assert cpus.core_indexes(list(cpu_list(smt8) or ())) == [*cores]


@pytest.mark.parametrize(
    ("name", "cpus", "cores"),
    [("dgx1-v100", "20-39,60-79", range(20, 40)), ("ac922-4gpu", "64-127", range(16, 32)),
     ("dgx-a100", "48-63,176-191", range(48, 64))],
)  # fmt: skip
def test_other_numberings_of_cpus_become_slurms_cores(name, cpus, cores):
    assert load(name).cpus.core_indexes(list(cpu_list(cpus) or ())) == [*cores]


@pytest.mark.parametrize(
    ("golden", "name", "threads"),
    [("minsky-p100-smt8", "minsky-p100", 8), ("minsky-p100-smt1", "minsky-p100", 1),
     ("ac922-4gpu", "ac922-4gpu", None), ("dgx1-v100", "dgx1-v100", None), ("dgx-a100", "dgx-a100", None),
     ("pcie", "pcie", None)],
)  # fmt: skip
def test_slurms_lines_are_the_golden_ones(golden, name, threads):
    text = fragments(load(name), "m[01-16]", threads) + "\n"
    file = GOLDEN / f"gres-{golden}.conf"
    assert file.exists(), f"no golden file; after reading it, keep this as {file}:\n{text}"
    assert text == file.read_text()


def test_gres_lines_are_the_same_with_any_smt():
    lines = [
        [line for line in fragments(load("minsky-p100"), "m1", threads).splitlines() if "Cores=" in line]
        for threads in (1, 2, 4, 8)
    ]
    assert all(each == lines[0] for each in lines)


@pytest.mark.parametrize(
    "names",
    [
        "m[01-16",
        "m[16-01]",
        "",
        "m 1",
        "m01,m[01-04]",
        "m[1-4],m[4-5]",
        "-m",
        "@all",
        "m[01-04]&m[01-02]",
        "m[1-99999999]",
        "m[1-999]n[1-999]",
        f"m[1-{'9' * 5000}]",
    ],
)
def test_names_that_are_none_or_overlap_are_refused(names):
    with pytest.raises(MinskyError, match="--nodes"):
        node_names(names)


def test_names_keep_their_zeros_and_fold_at_their_ends_alone_as_slurm_wants_it():
    assert node_names("m[01-16],gpu3") == "gpu3,m[01-16]"
    assert node_names("r[1-2]n[1-2],1a,2a") == "1a,2a,r1n[1-2],r2n[1-2]"


def test_threads_that_the_processor_does_not_have_are_refused():
    with pytest.raises(MinskyError, match="--smt is one of 1, 2, 4, 8"):
        fragments(load("minsky-p100"), "m1", 3)


def verdicts(topology: Topology, name: str) -> dict[str, bool | None]:
    return {row.what: row.same for row in compare(topology, load(name))}


@pytest.mark.parametrize("cpus", [OFF, SMT8], ids=["off", "8"])
def test_a_minsky_is_as_its_class_says_with_either_smt(cpus):
    found = verdicts(parse(minsky(*cpus)), "minsky-p100")
    assert found["links between GPUs"]
    assert found["cores of each GPU"]
    assert found["model"] is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("NV2", "NV1"), "links GPU 0 to GPU 1"),
        (("NV2", "SYS"), "links GPU 2 to GPU 3"),
        (("80-159", "0-79"), "cores of GPU 2"),
    ],
)
def test_what_differs_from_the_class_is_named(change, what):
    found = verdicts(parse(minsky(*SMT8).replace(*change)), "minsky-p100")
    assert found[what] is False


def test_a_list_of_gpus_differs_by_number_and_model():
    found = verdicts(parse(LISTING.replace("P100-SXM2", "V100-SXM2")), "minsky-p100")
    assert (found["GPUs"], found["model"], found["links between GPUs"]) == (False, False, None)


@pytest.mark.parametrize("name", available())
def test_the_closest_class_of_a_class_is_that_class(name):
    found = closest(load(name).topology()).name
    assert found == name, f"a node of class {name} would be taken for {found}: say in what they differ"


def test_a_class_that_names_the_gpus_of_a_plain_one_is_the_closest_to_those_alone(monkeypatch):
    plain = load("pcie")
    a10s = replace(plain, name="a10", gpu=replace(plain.gpu, names=["NVIDIA A10"]))
    classes = {"a10": a10s, "pcie": plain}
    monkeypatch.setattr("minsky.gpus.compare.available", lambda: classes)
    monkeypatch.setattr("minsky.gpus.compare.load", classes.__getitem__)
    assert [closest(node.topology()).name for node in (a10s, plain)] == ["a10", "pcie"]


def test_an_unknown_node_gets_a_class_that_can_be_committed():
    matrix = "\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\tNUMA Affinity\nGPU0\tX\tNV4\tPHB\t0-11,24-35\t0\n"
    matrix += "GPU1\tNV4\tX\tSYS\t12-23,36-47\t1\nmlx5_0\tPHB\tSYS\tX\n"
    models = LISTING.replace("Tesla P100-SXM2-16GB", "NVIDIA RTX A6000")
    text = propose(merge([parse(matrix), parse(models)]), "a6000")
    node = read(text, Path("a6000.yml"))
    assert text.startswith("# Closest to class ")
    assert node.gpu.names == ["NVIDIA RTX A6000"]
    assert [device.links for device in node.gpus] == [[-1, 4], [4, -1]]
    assert [device.cores for device in node.gpus] == ["0-11", "12-23"]
    assert (node.cpus.sockets, node.cpus.cores, node.cpus.numbering, node.nics.ports) == (2, 12, "split", 1)


def proposed(matrix: str, *others: str) -> NodeClass:
    return read(propose(merge([parse(matrix), *map(parse, others)]), "new"), Path("new.yml"))


def linked(count: int, gpus: int = 4) -> str:
    """The matrix of GPUs of which every pair has *count* links, two per socket."""
    names = [f"GPU{gpu}" for gpu in range(gpus)]
    lines = ["\t".join(["", *names, "CPU Affinity"])]
    for gpu, name in enumerate(names):
        cells = ["X" if other == name else f"NV{count}" for other in names]
        lines.append("\t".join([name, *cells, "0-11" if gpu < gpus // 2 else "12-23"]))
    return "\n".join(lines) + "\n"


def test_what_was_not_recorded_of_another_model_is_not_taken_from_the_closest_class():
    bridge = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\tX\tNV2\t0-79\nGPU1\tNV2\tX\t0-79\n"
    node = proposed(bridge + "\nLegend:\n", LISTING.replace("Tesla P100-SXM2-16GB", "Quadro RTX 8000"))
    assert (node.gpu.nvlinks, node.gpu.to_cpu, node.floors.host_to_device.gb_s) == (2, 0, 11)
    assert node.nvlink
    assert "not recorded" in node.nvlink.source
    speeds = STATUS.replace("Tesla P100-SXM2-16GB", "Quadro RTX 8000").replace("<inactive>", "25.781 GB/s")
    node = proposed(bridge, speeds)
    assert node.nvlink
    assert (node.gpu.nvlinks, node.nvlink.gb_s, "recorded: " in node.nvlink.source) == (4, 19.531, True)


@pytest.mark.parametrize(("count", "gpus", "switched", "links"), [(4, 4, False, 12), (6, 16, True, 6)])
def test_a_switch_is_told_by_more_links_than_a_gpu_has(count, gpus, switched, links):
    node = proposed(linked(count, gpus))
    assert node.nvlink
    assert (node.nvlink.switched, node.gpu.nvlinks) == (switched, links)


def test_a_node_of_a_known_class_gets_that_class():
    node = read(propose(parse(minsky(*OFF)), "again"), Path("again.yml"))
    known = load("minsky-p100")
    assert (node.cpus, node.floors, node.gpu) == (known.cpus, known.floors, known.gpu)


def test_a_file_that_the_shell_made_for_a_proposal_is_no_class_yet(tmp_path):
    (tmp_path / "mine.yml").touch()
    (tmp_path / "known.yml").write_text(PLAIN)
    assert list(available(tmp_path)) == ["known"]


@pytest.mark.parametrize("text", [LISTING, MINSKY.replace("\nmlx5_0", "\nmlx5_1"), minsky("", "")])
def test_what_does_not_tell_enough_is_not_made_a_class(text):
    with pytest.raises(MinskyError, match="recording"):
        propose(parse(text), "x")


NVLINK = "GPU 0: Tesla P100-SXM2-16GB (UUID: GPU-aaaa)\n"


@pytest.mark.parametrize(
    ("links", "same"),
    [(["20 GB/s"] * 4, True), (["20 GB/s"] * 4 + ["<inactive>"] * 2, False), (["20 GB/s"] * 3, False),
     (["Rx0: 0 KBytes, Tx0: 0 KBytes"] * 4, None), (["Rx0: 0 KBytes, Tx0: 0 KBytes"] * 5, False)],
)  # fmt: skip
def test_a_gpus_own_links_are_as_its_class_says_if_all_are_there_and_known_to_be_active(links, same):
    text = NVLINK + "".join(f"\t Link {link}: {state}\n" for link, state in enumerate(links))
    found = verdicts(parse(text), "minsky-p100")
    assert found[next(what for what in found if what.startswith("NVLinks of"))] is same
    assert found["speed of each link"] is (None if "Rx0" in text else True)


def test_diff_ends_with_1_where_something_differs_and_tells_json(tmp_path, capsys):
    file = tmp_path / "topo.txt"
    file.write_text(minsky(*SMT8))
    argv = ["diff", "--class", "minsky-p100", "--recorded", str(file)]
    assert main(argv) == 0
    file.write_text(minsky(*SMT8).replace("NV2", "NV1"))
    assert main(argv) == 1
    assert "links GPU 0 to GPU 1" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {"what": "links GPU 0 to GPU 1", "expected": "2", "found": "1", "same": False} in told["rows"]


def test_a_class_of_ones_own_is_named_by_its_path(tmp_path, capsys):
    file = tmp_path / "mine.yml"
    file.write_text(PLAIN.replace("nvlinks: 4", "nvlinks: 5"))
    assert main(["gres", "--class", str(file), "--nodes", "m[01-04]"]) == 0
    assert "class mine" in capsys.readouterr().out
