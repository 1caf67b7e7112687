"""What jobs report, as the user sees it."""

import io
import json

import pytest
from rich.console import Console

from minsky import demo, report
from minsky.errors import MinskyError

RESULT = {
    "lab": "cnn", "data": "mnist", "accuracy": 0.9881,
    "goal": {"measure": "accuracy", "at_least": 0.98, "source": "on all test images", "reached": True},
    "summary": {
        "accuracy": "0.9881; with default settings at least 0.98 (on all test images): reached",
        "speed": "1,402 images/s per rank, 2,804 in total",
        "ranks": "2 ranks on 2 simulated nodes of one machine (node[1-2]), 2 threads each",
    },
    "note": "", "results": "/shared/r/result.json", "plot": "/shared/r/curves.png",
}  # fmt: skip
MISSED = RESULT | {"goal": RESULT["goal"] | {"reached": False}}
LINE = f"RESULT {json.dumps(RESULT)}"


def shown(result):
    console = Console(file=io.StringIO(), width=120)
    console.print(report.summarise(result))
    return console.file.getvalue()


def test_results_are_found_among_the_other_lines_of_a_job():
    found = report.results(f"nodes: node1\nepoch 1\n{LINE}\nRESULTS of another kind\n{LINE}\n")
    assert found == [RESULT, RESULT]
    assert report.results("nothing here") == []


def test_a_summary_shows_what_the_lab_said_its_files_and_a_note_where_there_is_one():
    text = shown(RESULT)
    for part in (*RESULT["summary"].values(), "/shared/r/result.json", "/shared/r/curves.png"):
        assert part in text
    assert "note" not in text
    assert "for correctness" in shown(RESULT | {"note": "a run for correctness, not for speed"})


def test_a_result_line_that_was_cut_off_is_an_error_that_shows_it():
    with pytest.raises(MinskyError, match="cut off"):
        report.results(LINE[:60])


def test_a_job_without_a_result_and_a_missing_output_are_errors_that_name_the_file(tmp_path):
    output = tmp_path / "cnn-1.out"
    with pytest.raises(MinskyError, match=f"{output} cannot be read .No such file or directory.: name a job"):
        report.main([str(output)])
    output.write_text("epoch 1\n")
    with pytest.raises(MinskyError, match=f"{output} has no RESULT line"):
        report.main([str(output)])
    output.write_text(LINE[:60])
    with pytest.raises(MinskyError, match=f"{output}: this RESULT line is no JSON"):
        report.main([str(output)])
    output.write_text(LINE)
    assert report.main([str(output)]) == 0


def test_a_report_of_nothing_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as end:
        report.main([])
    assert end.value.code == 2
    assert "OUTPUT" in capsys.readouterr().err


def test_a_demo_that_misses_its_goal_ends_with_status_1_and_a_sentence():
    demo.judge(RESULT)
    with pytest.raises(demo.MissedError, match=r"cnn misses its goal: accuracy 0\.9881; with default"):
        demo.judge(MISSED)
