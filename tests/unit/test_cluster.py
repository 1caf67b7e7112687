"""What the commands on the virtual cluster decide and say, without one."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from minsky import cluster, follow, playbook, stages
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
        cluster.main(["down", "--epochs", "3"])
    assert "down does not know --epochs 3" in capsys.readouterr().err


def test_the_help_names_every_verb_with_an_example(capsys):
    with pytest.raises(SystemExit):
        cluster.main(["--help"])
    shown = capsys.readouterr().out
    assert all(text in shown for text in [*cluster.VERBS.values(), "make demo ARGS="])


def test_a_cluster_counts_as_unchanged_only_for_the_same_files_image_nodes_and_data(tmp_path, monkeypatch):
    nodes, sif = {"control": "c", "node1": "1"}, Path("lab-x86_64-0.sif")
    monkeypatch.delenv("MINSKY_DATA", raising=False)

    def digest(nodes=nodes, sif=sif):
        return cluster.fingerprint(nodes, sif, tmp_path)

    (tmp_path / "jobs" / "__pycache__").mkdir(parents=True)
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "site.yml").write_text("a")
    first = digest()
    (tmp_path / "jobs" / "__pycache__" / "x.pyc").touch()
    (tmp_path / "README.md").touch()
    assert digest() == first == digest(dict(reversed(nodes.items())))
    seen = {first, digest(sif=Path("lab-x86_64-1.sif")), digest({**nodes, "node1": "2"})}
    (tmp_path / "playbooks" / "site.yml").write_text("b")
    seen.add(digest())
    (tmp_path / "playbooks" / "site.yml").chmod(0o755)
    seen.add(digest())
    (tmp_path / "playbooks" / "site.yml").rename(tmp_path / "playbooks" / "other.yml")
    seen.add(digest())
    monkeypatch.setenv("MINSKY_DATA", "/mirror")
    seen.add(digest())
    assert len(seen) == 7


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
    told = stages.Stages()
    with told.stage("one", "doing it"):
        pass
    with pytest.raises(MinskyError), told.stage("two", "trying"):
        raise MinskyError("no")
    assert [line.split()[0] for line in told.table().splitlines()] == ["one", "two", "total"]
    assert (tmp_path / "stages").read_text() == told.table() + "\n"
    assert "[one] doing it" in capsys.readouterr().out


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
    assert {"demo", "cluster", "down", "test", "lint", "shell", "clean"} == verbs.keys()
