"""What jobs report, as the user sees it."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from minsky import report
from minsky.errors import MinskyError

LINE = (
    'RESULT {"lab": "cnn", "data": "mnist", "accuracy": 0.9881, "floor": 0.98, "images_per_s": 2804.2, '
    '"images_per_s_per_rank": 1402.1, "ranks": 2, "nodes": 2, "threads": 1, "seconds": 40.5, '
    '"results": "/shared/r/result.json", "plot": "/shared/r/curves.png"}'
)


def shown(result):
    console = Console(file=io.StringIO(), width=100)
    console.print(report.summarise(result))
    return console.file.getvalue()


def test_results_are_found_among_the_other_lines_of_a_job():
    found = report.results(f"nodes: node1\nepoch 1\n{LINE}\nRESULTS of another kind\n{LINE}\n")
    assert [result["lab"] for result in found] == ["cnn", "cnn"]
    assert report.results("nothing here") == []


def test_a_summary_shows_accuracy_beside_its_floor_speed_and_files():
    text = shown(report.results(LINE)[0])
    for part in ("0.9881  reaches its floor 0.98", "1,402 per rank, 2,804 in total", "/shared/r/curves.png"):
        assert part in text
    assert "below its floor" in shown(report.results(LINE)[0] | {"accuracy": 0.5})


def test_a_result_line_that_was_cut_off_is_an_error_that_shows_it():
    with pytest.raises(MinskyError, match="cut off"):
        report.results(LINE[:60])


def test_a_job_without_a_result_is_an_error_that_names_its_output(tmp_path):
    (tmp_path / "cnn-1.out").write_text("epoch 1\n")
    command = [sys.executable, "-m", "minsky.report", str(tmp_path / "cnn-1.out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cnn-1.out has no RESULT line" in done.stderr
