"""Smoke tests of nodes: over an inventory, on recordings; the table, the picture, what pytest makes of it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from minsky import smoke
from minsky.errors import MinskyError
from minsky.nodecheck.check import FAILED, OK, SKIPPED, WARNING
from minsky.nodecheck.run import Result
from minsky.smoke import Report, everywhere, fold, title
from minsky.smoke.picture import MOST, draw
from minsky.smoke.table import table

ROOT = Path(__file__).resolve().parents[2]
DOWN = Result("4 active", "NVLinks of GPU 2: 3 of 4 active", FAILED, "reset the GPUs", name="nvlinks")
GOOD = [Result("4", "4", name="gpus"), Result("4 active", "4 active", name="nvlinks"),
        Result("none", "simulated", SKIPPED, name="xid")]  # fmt: skip


def answer(results, *, simulated=False):
    checks = [{**vars(each), "seconds": 0.1} for each in results]
    return json.dumps(
        {"node": "x", "class": "minsky-p100", "simulated": simulated, "checks": checks, "floors": {}}
    )


def nodes(count, *broken):
    good, bad = (
        [(Report(f"node{n}", GOOD, "minsky-p100", simulated=True)) for n in range(1, count + 1)],
        dict(broken),
    )
    return [
        Report(each.node, bad[each.node], "minsky-p100", True) if each.node in bad else each for each in good
    ]


# Over an inventory.


@pytest.fixture
def inventory(tmp_path):
    """Make an inventory whose hosts are reached by a stand-in for ssh, with what each answers."""

    def make(answers):
        for name, (said, status) in answers.items():
            (tmp_path / name).write_text(said)
            (tmp_path / f"{name}.status").write_text(f"{status}\n")
        ssh = tmp_path / "ssh"
        ssh.write_text(
            "#!/bin/sh\n# simulated\n"
            f'for name in {" ".join(answers)}; do case " $* " in *" $name "*) host=$name;; esac; done\n'
            '[ "$host" ] || exit 0\n'
            f'case "$*" in *"{smoke.NODECHECK} --json"*) ;; *) echo "unexpected: $*" >&2; exit 7;; esac\n'
            f'status=$(cat "{tmp_path}/$host.status")\n'
            f'if [ "$status" = 255 ]; then cat "{tmp_path}/$host" >&2; else cat "{tmp_path}/$host"; fi\n'
            f'[ "$status" = hang ] && exec sleep 60\nexit "$status"\n'
        )
        ssh.chmod(0o755)
        hosts = "".join(f"        {name}:\n" for name in answers)
        (tmp_path / "hosts.yml").write_text(
            f"all:\n  vars: {{ansible_ssh_executable: {ssh}, ansible_pipelining: false}}\n  children:\n"
            f"    slurm_node:\n      hosts:\n{hosts}"
        )
        return tmp_path / "hosts.yml"

    return make


def test_all_nodes_of_an_inventory_are_asked_and_one_that_does_not_answer_is_red(inventory):
    file = inventory({
        "node2": (answer([GOOD[0], DOWN], simulated=True), 1),
        "node10": ("ssh: connect to host node10 port 22: No route to host\n", 255),
        "node1": (answer(GOOD), 0),
        "node3": ("/bin/sh: 1: /usr/local/sbin/nodecheck: not found\n", 127),
        "node5": ('{"node": "x"}\n', 0),
        "node4": ("minsky: /etc/minsky/nodecheck.yml: unknown key mount\n", 2),
    })  # fmt: skip
    found = {report.node: report for report in everywhere(file)}
    assert list(found) == ["node1", "node2", "node3", "node4", "node5", "node10"]
    assert (found["node1"].failed, found["node1"].class_name, found["node1"].simulated) == (
        [],
        "minsky-p100",
        False,
    )
    assert ([each.name for each in found["node2"].failed], found["node2"].simulated) == (["nvlinks"], True)
    words = {
        "node3": "not found",
        "node4": "unknown key mount",
        "node5": "an answer of another version of nodecheck",
        "node10": "No route to host",
    }
    for name, said in words.items():
        (result,) = found[name].results
        assert (result.name, result.verdict, said in result.found) == (smoke.ANSWER.name, FAILED, True), (
            result
        )
        assert result.do
    assert "ssh" in found["node10"].results[0].do


def test_a_node_that_hangs_keeps_the_others_from_nothing(inventory, monkeypatch, tmp_path):
    monkeypatch.setattr(smoke, "LIMIT", 3)
    began = time.monotonic()
    inventory({"node1": (answer(GOOD), 0), "node2": ("", "hang")})
    monkeypatch.chdir(tmp_path)
    found = everywhere(Path("hosts.yml"))
    assert time.monotonic() - began < 30
    assert [bool(report.failed) for report in found] == [False, True]


@pytest.mark.parametrize("text", ["all:\n  hosts:\n    head:\n", "no: [inventory\n"])
def test_an_inventory_without_nodes_is_a_sentence(text, tmp_path):
    (tmp_path / "hosts.yml").write_text(text)
    with pytest.raises(MinskyError, match="has no hosts in slurm_node"):
        everywhere(tmp_path / "hosts.yml")


# What is shown.


def test_nodes_that_agree_share_a_column_and_others_have_their_own():
    reports = nodes(16, ("node7", [GOOD[0], DOWN]))
    assert [name for name, _ in fold(reports)] == ["node[1-6,8-16]", "node7"]
    assert title(reports) == "16 nodes, class minsky-p100, simulated GPUs: 1 failed"
    reports[0] = smoke.unanswered("node1", "no route", "start it")
    assert [name for name, _ in fold(reports)] == ["node1", "node[2-6,8-16]", "node7"]
    assert title(reports) == "16 nodes, class minsky-p100, GPUs of 15 simulated: 2 failed"
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table(reports))
    text = " ".join(console.export_text().split())
    for words in (
        "FAILED NVLinks of GPU 2: 3 of 4",
        "do: reset the GPUs",
        "do: start it",
        "skipped: xid (simulated)",
    ):
        assert words in text


def test_values_that_differ_and_are_good_fold():
    memory = [Result("", f"{free} MiB free", name="memory") for free in (7, 8)]
    assert len(fold([Report("a1", memory[:1], "none"), Report("a2", memory[1:], "none")])) == 1
    warned = [Result("", each.found, WARNING, "wait", name="memory") for each in memory]
    assert len(fold([Report("a1", warned[:1], "none"), Report("a2", warned[1:], "none")])) == 2


@pytest.mark.parametrize("count", [1, 16, MOST + 1])
def test_a_picture_has_words_for_every_node_and_says_what_to_do(count, tmp_path):
    file = tmp_path / "nodes.svg"
    draw(nodes(count, ("node1", [GOOD[0], DOWN])), file)
    text = re.sub(r"\s+", " ", file.read_text())
    said = re.findall("<!-- (.*?) -->", text)
    assert said.count("FAILED") == 1
    assert any("simulated GPUs" in words for words in said)
    assert any("Do: reset the GPUs" in words for words in said)
    rows = [words for words in said if words.startswith("node") and "," not in words.split(" ")[0]]
    assert len(rows) == (count if count <= MOST else 2), rows


def test_a_picture_that_cannot_be_is_refused(tmp_path):
    for file, words in (
        (tmp_path / "n.gif", "PNG or SVG"),
        (tmp_path / "none" / "n.png", "cannot be written"),
    ):
        with pytest.raises(MinskyError, match=words):
            draw(nodes(1), file)


# pytest tests/smoke.


def pytest_smoke(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/smoke", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip


def test_each_check_of_each_node_is_a_test_with_what_it_found(inventory, tmp_path):
    file = inventory({"node1": (answer(GOOD), 0), "node2": (answer([GOOD[0], DOWN], simulated=True), 1)})
    done = pytest_smoke(
        "--inventory", file, "--junitxml", tmp_path / "j.xml", "--picture", tmp_path / "n.png"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    for words in ("test_smoke[node2-nvlinks]", "expected: 4 active", "do:       reset the GPUs",
                  "FAILED NVLinks of", "GPUs of 1 simulated", "1 failed, 5 passed, 1 skipped"):  # fmt: skip
        assert words in done.stdout, done.stdout
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "j.xml").iter("testcase")}  # noqa: S314 - pytest wrote it
    assert set(cases) == {
        f"test_smoke[{name}]"
        for name in (
            "node1-gpus",
            "node1-nodecheck",
            "node2-nodecheck",
            "node1-nvlinks",
            "node1-xid",
            "node2-gpus",
            "node2-nvlinks",
        )
    }
    told = {
        each.get("name"): each.get("value") for each in cases["test_smoke[node2-nvlinks]"].iter("property")
    }
    assert (told["class"], told["found"], told["expected"]) == ("minsky-p100", DOWN.found, "4 active")
    assert cases["test_smoke[node2-nvlinks]"].find("failure") is not None
    assert (tmp_path / "n.png").stat().st_size > 10000


LISTING = "".join(f"GPU {n}: Tesla P100-SXM2-16GB (UUID: GPU-0000000{n}-1-1-1-1)\n" for n in range(4))


@pytest.mark.parametrize(
    ("text", "words"),
    [(LISTING, []), (LISTING.replace("P100", "V100"), ["test_smoke[L.txt-gpus]", "model: Tesla V100"]),
     (f"GPU 0002:01:00.0: GPU is lost\n{LISTING[LISTING.index('GPU 1') :]}",
      ["test_smoke[L.txt-gpus]", "GPU is lost"]),
     ("SMT=8\n", ["test_smoke[L.txt-nodecheck]", "record lscpu"])],
    ids=["good", "another model", "lost", "another command"],
)  # fmt: skip
def test_a_recording_is_tested_as_a_node_is(text, words, tmp_path):
    file = tmp_path / "L.txt"
    file.write_text(text)
    done = pytest_smoke("--recorded", file, "--class", "minsky-p100")
    assert done.returncode == bool(words), done.stdout
    assert all(word in done.stdout for word in words), done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recorded", "x"], "Name its class by --class"),
        (["--inventory", "x", "--class", "none"], "leave --class"),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(arguments, words):
    done = pytest_smoke(*arguments)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (4, True, False), (
        done.stderr
    )


def test_this_machine_is_tested_as_the_class_that_is_named():
    done = pytest_smoke("--class", "none", "-k", "memory")
    assert (done.returncode, "class none" in done.stdout) == (0, True), done.stdout


def test_without_a_node_nothing_passes_and_a_sentence_says_how_to_name_one(tmp_path, monkeypatch):
    (tmp_path / "no_cluster.py").write_text(
        "from pathlib import Path\nfrom minsky import virtual\nvirtual.INVENTORY = Path('/none/hosts.yml')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = pytest_smoke("-p", "no_cluster")
    assert (done.returncode, "make cluster" in done.stderr) == (4, True), done.stdout + done.stderr


def test_the_smoke_tests_are_no_part_of_the_trees_own():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", "tests",
         *(f"--ignore=tests/{name}" for name in ("unit", "cluster", "images"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "tests/smoke/" not in done.stdout
    assert "tests/repo/" in done.stdout


def test_a_report_knows_what_failed():
    assert Report("a", [Result("", "", OK, name="x"), DOWN]).failed == [DOWN]
