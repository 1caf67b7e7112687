"""What the commands on the virtual cluster decide and say, without one."""

import io
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from minsky import cluster, dockerd, follow, playbook, simulated, stages, virtual
from minsky.cluster import __main__ as command
from minsky.errors import MinskyError

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = """\
PLAY [all] *********************************************************************

TASK [first : Look] ************************************************************
fatal: [node1]: FAILED! =>
    changed: false
    msg: it is not there
...ignoring

TASK [munge : Install the key] *************************************************
ok: [control]
failed: [node2] (item=/a) =>
    changed: false
    msg: |-
        the first line

        and the last
    rc: 3
    stderr: permission denied
fatal: [node3]: FAILED! =>
    msg: another one

TASK [Summary] *****************************************************************
ok: [control] =>
    msg:
    - 'minsky: bricks: a lost one costs nothing'
    - 'minsky: bricks: a lost one costs nothing'

PLAY RECAP *********************************************************************
"""


@pytest.mark.parametrize(
    ("given", "up", "count"),
    [(None, 0, 3), ("", 0, 3), ("16", 0, 16), (None, 5, 5), ("5", 3, 5), ("1", 1, 1)],
)
def test_the_node_count_is_three_unless_asked_for_or_up(given, up, count):
    assert cluster.node_count(given, up) == count


@pytest.mark.parametrize("given", ["0", "17", "-1", "three", "3.0", " 3", "\u0663"])
def test_a_node_count_out_of_range_is_refused_with_the_range(given):
    with pytest.raises(MinskyError, match=rf"NODES is '{given}'.*1 to 16.*make cluster NODES=3"):
        cluster.node_count(given)


@pytest.mark.parametrize(("given", "up"), [("1", 3), ("3", 2), ("2", 1)])
def test_a_count_that_would_move_the_file_system_is_refused_while_the_cluster_is_up(given, up):
    with pytest.raises(MinskyError, match=f"make down cluster NODES={given}"):
        cluster.node_count(given, up)


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_the_commands_refuse_a_node_count_before_anything_changes(verb):
    done = subprocess.run(
        [sys.executable, "-m", "minsky.cluster", verb, "--nodes", "99"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "NODES is '99'" in done.stderr


def test_an_option_that_no_verb_but_demo_passes_on_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["down", "--epochs", "3"])
    assert "down does not know --epochs 3" in capsys.readouterr().err


def test_the_help_names_every_verb_with_an_example(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name:<8} {verb.words}" in shown for name, verb in command.VERBS.items())
    assert "make demo ARGS=" in shown


def test_the_help_of_demo_is_that_of_its_lab(capfd):
    assert command.main(["demo", "--help"]) == 0
    assert capfd.readouterr().out.startswith("usage: cnn")


def test_a_verb_does_what_its_row_says(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(cluster, "LOCK", tmp_path / "lock")
    monkeypatch.delenv("MINSKY_DATA", raising=False)
    for name in ("status", "shell", "down", "remains", "clean"):
        monkeypatch.setattr(cluster, name, lambda name=name: done.append(name))
        assert command.main([name]) == 0
    assert done == ["status", "shell", "down", "remains", "clean"]


def test_two_commands_that_change_the_cluster_do_not_run_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(cluster, "down", lambda: command.main(["clean"]))
    with pytest.raises(MinskyError, match="Another make in this checkout is at work"):
        command.main(["down"])


@pytest.mark.parametrize(
    ("is_so", "said"),
    [
        ({"at work"}, "They are being provisioned; "),
        (set(), "They are not provisioned to the end: make cluster does it."),
        ({"provisioned"}, "sinfo"),
    ],
)
def test_the_status_asks_slurm_only_where_there_is_one(monkeypatch, tmp_path, capfd, is_so, said):
    monkeypatch.setattr(cluster, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(cluster, "PROVISIONED", tmp_path / "provisioned")
    monkeypatch.setattr(cluster, "running", lambda: {"control": "c"})
    monkeypatch.setattr(cluster, "ssh", lambda _, *command: ["echo", *command])
    if "provisioned" in is_so:
        cluster.PROVISIONED.touch()
    with command.alone() if "at work" in is_so else nullcontext():
        cluster.status()
    assert said in capfd.readouterr().out


def test_machines_get_names_addresses_memory_and_bricks():
    shape = virtual.layout(nodes=4, memory_mb=10_000)
    assert shape["virtual_machines"][0] == {
        "name": "control", "container": "minsky-control", "address": "172.31.240.10",
    }  # fmt: skip
    assert [m["address"] for m in shape["virtual_machines"][1:]] == [f"172.31.240.{n}" for n in range(11, 15)]
    assert (shape["virtual_memory_mb"], shape["virtual_jobs_memory_mb"]) == (1600, 1200)
    assert shape["virtual_bricks"] == ["node1", "node2", "node3"]
    assert virtual.layout(3, 10_000)["virtual_bricks"] == ["node1", "node2", "node3"]
    assert virtual.layout(1, 10_000)["virtual_bricks"] == ["control", "node1"]


def test_every_machine_of_the_largest_cluster_has_an_address_of_the_network():
    for machine in virtual.layout(virtual.MAX_NODES, 100_000)["virtual_machines"]:
        assert virtual.ipaddress.IPv4Address(machine["address"]) in virtual.SUBNET


class Thing(SimpleNamespace):
    """A container or network of a Docker daemon that is not there."""

    def remove(self, **_):
        self.removed.append(self.name)


@pytest.mark.parametrize(
    ("ci", "gone"),
    [
        ("", ["mine", "orphan", "empty"]),
        ("true", ["mine", "theirs", "stopped", "orphan", "step", "empty", "theirs too"]),
    ],
)
def test_what_runs_for_another_checkout_is_removed_only_on_a_machine_for_ci(monkeypatch, tmp_path, ci, gone):
    (tmp_path / "Makefile").touch()
    removed = []

    def container(name, status, owner):
        labels = {"minsky": "1"} | ({virtual.CHECKOUT_LABEL: str(owner)} if owner else {})
        return Thing(name=name, status=status, labels=labels, removed=removed)

    containers = [
        container("mine", "running", cluster.ROOT),
        container("theirs", "running", tmp_path),
        container("stopped", "exited", tmp_path),  # after a reboot of the machine: its bricks hold files
        container("orphan", "running", tmp_path / "gone"),
        container("step", "exited", None),
    ]
    networks = [
        Thing(
            name=name,
            attrs={"Containers": used, "Labels": {virtual.CHECKOUT_LABEL: str(owner)}},
            removed=removed,
        )
        for name, used, owner in (
            ("used", {"x": {}}, cluster.ROOT),
            ("empty", {}, cluster.ROOT),
            ("theirs too", {}, tmp_path),
        )
    ]
    daemon = SimpleNamespace(
        containers=SimpleNamespace(list=lambda **_: containers),
        networks=SimpleNamespace(list=lambda **_: networks),
    )
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(dockerd, "client", lambda: daemon)
    monkeypatch.setattr(cluster, "INVENTORY", tmp_path / "hosts.yml")
    cluster.remains()
    assert removed == gone


@pytest.fixture
def booting(monkeypatch, tmp_path):
    """`cluster.up` with stand-ins for all that it calls; what they were called with."""
    seen = SimpleNamespace(needs=[], kept=0, plays={}, running={})

    def keep():
        seen.kept += 1

    def needs_sif(_):
        return [(tmp_path, 5, "converting")]

    monkeypatch.setattr(dockerd, "daemon", lambda: True)
    monkeypatch.setattr(cluster, "ours", dict)
    monkeypatch.setattr(cluster, "running", lambda: seen.running)
    monkeypatch.setattr(cluster, "make_key", lambda: None)
    monkeypatch.setattr(cluster, "fingerprint", lambda *_: "digest")
    monkeypatch.setattr(cluster, "PROVISIONED", tmp_path / "provisioned")
    monkeypatch.setattr(cluster, "POSED", tmp_path / "posed")
    monkeypatch.setattr(cluster, "INVENTORY", tmp_path / "hosts.yml")
    monkeypatch.setattr(cluster.system, "need_program", lambda *_: None)
    monkeypatch.setattr(cluster.host, "preflight", lambda *_, needs, **__: seen.needs.extend(needs))
    monkeypatch.setattr(cluster.images, "ensure", lambda _: "minsky/node:1")
    monkeypatch.setattr(cluster.images, "ensure_sif", lambda _: Path("/cache/lab-x86_64-1.sif"))
    monkeypatch.setattr(cluster.images, "needs", lambda _: [])
    monkeypatch.setattr(cluster.images, "needs_sif", needs_sif)
    monkeypatch.setattr(cluster.snapshot, "keep", keep)
    monkeypatch.setattr(
        cluster, "play", lambda stage, _, __, variables: seen.plays.update({stage: json.loads(variables)})
    )
    return seen


def test_booting_asks_for_the_room_that_images_need_and_tells_playbooks_what_to_print(booting):
    assert cluster.up("2") == 2
    assert [gb for _, gb, _ in booting.needs] == [5]
    nodes = booting.plays["nodes"]
    assert nodes["virtual_image"] == "minsky/node:1"
    assert [machine["name"] for machine in nodes["virtual_machines"]] == ["control", "node1", "node2"]
    assert nodes["virtual_labels"][virtual.CHECKOUT_LABEL] == str(cluster.ROOT)
    assert nodes["virtual_class"] == "none"
    assert booting.plays["provision"] == {"staging_images": ["/cache/lab-x86_64-1.sif"]}


def test_what_the_host_is_like_is_kept_only_before_the_first_node_boots(booting):
    cluster.up("2")
    assert booting.kept == 1
    booting.running = {"control": "c"}
    cluster.up("2")
    assert booting.kept == 1


def test_a_cluster_counts_as_unchanged_only_for_the_same_files_image_nodes_and_data(tmp_path, monkeypatch):
    nodes, sif = {"control": "c", "node1": "1"}, Path("lab-x86_64-0.sif")
    monkeypatch.delenv("MINSKY_DATA", raising=False)

    def digest(nodes=nodes, sif=sif, posed=cluster.NONE):
        return cluster.fingerprint(nodes, sif, posed, tmp_path)

    (tmp_path / "jobs" / "__pycache__").mkdir(parents=True)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "site.yml").write_text("a")
    first = digest()
    (tmp_path / "jobs" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "README.md").touch()
    assert digest() == first == digest(dict(reversed(nodes.items())))
    seen = {first, digest(sif=Path("lab-x86_64-1.sif")), digest({**nodes, "node1": "2"})}
    seen.add(digest(posed="minsky-p100"))
    (tmp_path / "playbooks" / "site.yml").write_text("b")
    seen.add(digest())
    (tmp_path / "playbooks" / "site.yml").chmod(0o755)
    seen.add(digest())
    (tmp_path / "playbooks" / "site.yml").rename(tmp_path / "playbooks" / "other.yml")
    seen.add(digest())
    (tmp_path / "src/minsky").mkdir(parents=True)
    (tmp_path / "src/minsky/errors.py").touch()  # a part of nodecheck's one file
    seen.add(digest())
    monkeypatch.setenv("MINSKY_DATA", "/mirror")
    seen.add(digest())
    assert len(seen) == 9


def test_a_failed_playbook_is_told_by_host_task_and_message_and_ignored_failures_are_not():
    assert playbook.failure(OUTPUT) == (
        "node2, at the task 'munge : Install the key': the first line\n\nand the last\npermission denied"
    )


def test_a_playbook_that_does_not_even_parse_is_told_by_ansibles_error():
    assert playbook.failure("[ERROR]: conflicting action statements\nOrigin: x.yml\n") == (
        "conflicting action statements"
    )


def test_what_a_playbook_says_to_the_user_is_shown_once():
    assert playbook.spoken(OUTPUT) == ["bricks: a lost one costs nothing"]


def test_a_playbook_that_fails_names_its_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(playbook, "LOGS", tmp_path)
    book = tmp_path / "book.yml"
    book.write_text(
        "- hosts: localhost\n  gather_facts: false\n  connection: local\n  tasks:\n"
        "    - name: Summary\n      ansible.builtin.debug: {msg: ['minsky: all is well', not this]}\n"
        "    - name: Refuse\n      ansible.builtin.fail: {msg: 'no, because'}\n"
        "      when: refuse is defined\n"
    )
    playbook.play("one", str(book), "-i", "localhost,")
    assert capsys.readouterr().out == "  all is well\n"
    with pytest.raises(MinskyError) as caught:
        playbook.play("two", str(book), "-i", "localhost,", "-e", "refuse=1")
    assert "localhost, at the task 'Refuse': no, because" in str(caught.value)
    assert str(tmp_path / "two.log") in str(caught.value)
    assert "TASK [Refuse]" in (tmp_path / "two.log").read_text()


def test_each_stage_is_told_with_its_seconds_even_when_it_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "LOGS", tmp_path)
    told = stages.Stages("up")
    with told.stage("one", "doing it"):
        pass
    with pytest.raises(MinskyError), told.stage("two", "trying"):
        raise MinskyError("no")
    assert [line.split()[0] for line in told.table().splitlines()] == ["one", "two", "total"]
    assert (tmp_path / "stages-up").read_text() == told.table() + "\n"
    assert "[one] doing it" in capsys.readouterr().out


def test_stages_without_a_name_overwrite_nobodys_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "LOGS", tmp_path)
    told = stages.Stages()
    with told.stage("one", "doing it"):
        pass
    assert told.table()
    assert list(tmp_path.iterdir()) == []


SCONTROL = """#!/bin/sh
state=$(cat "$0.state")
echo "JobId=$4 JobName=x JobState=$state Reason=None Dependency=(null) StdOut=$0.out Power="
"""


@pytest.mark.parametrize(("state", "status"), [("COMPLETED", 0), ("FAILED", 1)])
def test_a_jobs_output_is_shown_to_its_last_line_and_its_state_decides(
    tmp_path, monkeypatch, capsys, state, status
):
    """`scontrol` is a stand-in here; tests/cluster follows a real job."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    (tmp_path / "scontrol.state").write_text(state)
    (tmp_path / "scontrol.out").write_text("epoch 1\nRESULT {}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert follow.main("7", 30) == status
    assert capsys.readouterr().out.splitlines() == [f"= {state} None", "> epoch 1", "> RESULT {}"]
    (tmp_path / "scontrol.state").write_text("PENDING")
    assert follow.main("7", 0.1) == 3
    assert capsys.readouterr().out.splitlines() == ["= PENDING None", "> epoch 1"]


def test_plain_make_lists_the_verbs_with_a_sentence_each():
    shown = subprocess.run(
        ["make", "-s", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    verbs = {line.split()[1]: line.split(None, 2)[2] for line in io.StringIO(shown)}
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"(?m)^([a-z-]+):", makefile)) - {"help", "venv"} == verbs.keys()
    assert set(re.findall(r"\$\(MINSKY\) (\w+)", makefile)) <= command.VERBS.keys()


def test_a_class_that_is_open_keeps_its_keys_from_make_clean(monkeypatch, tmp_path):
    (tmp_path / "workshop" / "minsky-class").mkdir(parents=True)
    (tmp_path / "workshop" / "minsky-class" / "class01").write_text("a key")
    monkeypatch.setattr(cluster, "STATE", tmp_path)
    monkeypatch.setattr(cluster, "down", lambda: pytest.fail("nothing may be removed before this is refused"))
    with pytest.raises(MinskyError, match=r"minsky-class holds the keys of an open class.*make workshop-end"):
        cluster.clean()


def inventory(path, posed):
    path.write_text(f"all: {{children: {{slurm_node: {{vars: {{cluster_node_class: {posed}}}}}}}}}\n")


def test_nodes_pose_as_what_is_typed_or_else_as_they_do_already(booting, monkeypatch):
    cluster.up("2")
    assert booting.plays["nodes"]["virtual_class"] == "none"
    cluster.up("2", pose="minsky-p100")
    files = booting.plays["pose"]["virtual_posed_files"]
    assert (
        (cluster.POSED / "etc/minsky/simulated")
        .read_text()
        .startswith("This node poses as class minsky-p100")
    )
    inventory(cluster.INVENTORY, "dgx-a100")
    cluster.up("2")
    assert booting.plays["nodes"]["virtual_class"] == "none"  # of a cluster that is gone
    monkeypatch.setattr(cluster, "ours", lambda: {"control": "c", "node1": "1", "node2": "2"})
    monkeypatch.setattr(cluster, "refuse_without_devices", lambda _: None)
    cluster.up("2")
    assert booting.plays["nodes"]["virtual_class"] == "dgx-a100"
    cluster.up("2", pose="none")
    assert booting.plays["nodes"]["virtual_class"] == "none"
    assert booting.plays["pose"]["virtual_posed_files"] == files  # which are removed


@pytest.mark.parametrize("verb", ["up", "demo"])
def test_a_class_that_there_is_not_is_refused_before_anything_changes(verb, monkeypatch):
    monkeypatch.setenv("CLASS", "minsky-p10")
    with pytest.raises(MinskyError, match=r"CLASS is 'minsky-p10'.* minsky-p100.*make cluster CLASS="):
        command.main([verb])


def test_containers_that_may_not_have_devices_are_not_replaced_but_told_of(monkeypatch):
    allowed = virtual.VARIABLES["virtual_device_rules"]
    rules = {"c": None, "1": allowed, "2": ["c 195:* rwm"]}
    containers = SimpleNamespace(
        get=lambda number: SimpleNamespace(attrs={"HostConfig": {"DeviceCgroupRules": rules[number]}})
    )
    monkeypatch.setattr(dockerd, "client", lambda: SimpleNamespace(containers=containers))
    monkeypatch.setattr(cluster, "ours", lambda: {"control": "c", "node1": "1", "node2": "2"})
    with pytest.raises(MinskyError, match=r"^node2 may not.*make down cluster CLASS=pcie"):
        cluster.refuse_without_devices("pcie")
    rules["2"] = allowed
    cluster.refuse_without_devices("pcie")


@pytest.fixture
def standing(booting, monkeypatch):
    """A cluster that is up, provisioned, and poses as class pcie."""
    booting.running = {"control": "c", "node1": "1", "node2": "2"}
    cluster.PROVISIONED.write_text("digest")
    inventory(cluster.INVENTORY, "pcie")
    return booting


def test_a_fault_befalls_one_node_and_the_cluster_is_no_longer_trusted(standing, monkeypatch):
    cluster.fault("node2", "gpu-lost")
    told = standing.plays["fault"]
    assert (told["virtual_broken"], told["virtual_fault"], told["virtual_check"]) == (
        ["node2"], "gpu-lost", "driver",
    )  # fmt: skip
    assert "lost=2" in (cluster.POSED / "usr/local/bin/nvidia-smi").read_text()
    cluster.fault("node1", "mount-gone")
    cluster.fault("node2", "clock-skew")
    assert cluster.PROVISIONED.read_text().splitlines() == ["digest", "node1 mount-gone", "node2 clock-skew"]
    with monkeypatch.context() as halfway:
        halfway.setattr(cluster, "play", lambda *_: sys.exit("unreachable"))
        with pytest.raises(SystemExit):
            cluster.fault("", "none")
    assert len(cluster.PROVISIONED.read_text().splitlines()) == 3, "not mended, and yet trusted"
    cluster.fault("", "none")
    assert standing.plays["fault"]["virtual_broken"] == ["node1", "node2"]
    assert "lost=''" in (cluster.POSED / "usr/local/bin/nvidia-smi").read_text()
    assert cluster.PROVISIONED.read_text() == "digest"


@pytest.mark.parametrize(
    ("node", "fault", "words"),
    [
        ("node3", "ecc", r"NODE is 'node3'.* node1, node2\..*make fault NODE=node2 FAULT=ecc"),
        (None, "ecc", "NODE is ''"),
        ("control", "mount-gone", "NODE is 'control'"),
        ("node1", "nvlink", r"FAULT is 'nvlink'.* nvlink-down, .*clock-skew; none mends"),
        ("node1", None, "FAULT is ''"),
        ("node1", "nvlink-down", "class pcie has no NVLinks"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_what_to_type(standing, node, fault, words):
    with pytest.raises(MinskyError, match=words):
        cluster.fault(node, fault)
    assert cluster.PROVISIONED.read_text() == "digest"
    assert "fault" not in standing.plays


def test_without_gpus_a_fault_of_theirs_is_refused_and_any_other_is_not(standing):
    inventory(cluster.INVENTORY, "none")
    with pytest.raises(MinskyError, match=r"befalls GPUs.*make cluster CLASS="):
        cluster.fault("node1", "ecc")
    cluster.fault("node1", "mount-gone")
    assert standing.plays["fault"]["virtual_fault"] == "mount-gone"
    standing.running = {}
    with pytest.raises(MinskyError, match="make cluster"):
        cluster.fault("node1", "mount-gone")


def test_the_status_calls_simulated_what_is_simulated(standing, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "ssh", lambda _, *words: ["echo", *words])
    cluster.fault("node2", "ecc")
    cluster.status()
    shown = capfd.readouterr().out
    assert "pose as class pcie: GPUs, links, sockets and cores are simulated" in shown
    assert "A simulated fault: node2 ecc; make fault NODE=node2 FAULT=none mends it." in shown
    assert "%10f" in shown  # features, of which one says it too


def test_nodes_that_pose_as_none_need_no_class_to_be_rid_of_what_others_had(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "POSED", tmp_path / "posed")
    monkeypatch.setattr(cluster, "load", lambda name: pytest.fail(f"class {name} was read"))
    assert cluster.stand_ins("none")["virtual_posed_files"] == simulated.FILES
