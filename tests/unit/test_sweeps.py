"""Sweeps and studies of scaling, as far as they need no TensorFlow."""

import json
import sys

import pytest

from labs.labkit import LabError, scaling, sweep


def result(**more):
    told = {
        "lab": "x", "data": "y", "cost": 0.1, "goal": {"measure": "cost", "reached": True}, "seconds": 4.0,
        "startup_s": 3.0, "epochs": 2.0, "steps": 2, "history": {"loss": [2.0, 1.0]},
    }  # fmt: skip
    return told | more


def written(directory, results):
    for name, told in results.items():
        (directory / name).mkdir(parents=True)
        (directory / name / "result.json").write_text(json.dumps(told))
    return directory


@pytest.fixture
def rates(tmp_path):
    bad = result(diverged=True, cost=None, goal={"measure": "cost", "reached": False})
    points = {
        "learning-rate=0.3": bad,
        "learning-rate=0.001": result(),
        "learning-rate=0.03": result(cost=0.09),
    }
    return written(tmp_path / "learning_rates", points)


def test_points_stand_in_the_order_of_their_numbers(rates):
    assert list(sweep.points(rates)) == ["learning-rate=0.001", "learning-rate=0.03", "learning-rate=0.3"]


def test_a_sweep_tells_a_diverged_point_from_one_that_reached_its_goal(rates, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep", str(rates)])
    monkeypatch.setattr(sweep, "draw", lambda *_: None)  # matplotlib is in the image
    assert sweep.main() == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert lines[1:4] == [
        ["learning-rate=0.001", "0.1", "reached", "4.0", "3.0"],
        ["learning-rate=0.03", "0.09", "reached", "4.0", "3.0"],
        ["learning-rate=0.3", "diverged", "4.0", "3.0"],
    ]
    assert "3 points, 12 s in all, 75% of that before the first step" in said
    assert json.loads((rates / "sweep.json").read_text())["points"]["learning-rate=0.03"] == 0.09


def test_a_sweep_without_results_says_where_to_look(tmp_path):
    with pytest.raises(LabError, match="their outputs, beside it, say why"):
        sweep.points(tmp_path)


def test_a_study_divides_one_batch_among_all_its_ranks():
    assert scaling.runs("cnn", [1, 2, 3], None) == [
        "weak 1 --batch-size 132 --steps 40",
        "weak 2 --batch-size 132 --steps 40",
        "weak 3 --batch-size 132 --steps 40",
        "strong 2 --global-batch-size 132 --steps 40",
        "strong 3 --global-batch-size 132 --steps 40",
    ]


@pytest.mark.parametrize(
    ("lab", "ranks", "batch", "said"),
    [
        ("cmm", [1], None, "there is no lab 'cmm'; the labs are .*cnn"),
        ("transfer_learning", [1, 2], None, "transfer_learning has no batch that could be divided or grow"),
        ("cnn", [1, 3], 128, "128 does not divide among each of .*: use --batch 126"),
    ],
)
def test_a_study_that_cannot_be_is_refused_with_what_can(lab, ranks, batch, said):
    with pytest.raises(LabError, match=said):
        scaling.runs(lab, ranks, batch)


PRINTED = """# all-reduce of float32 over 2 ranks on CPU:0, Horovod without NCCL
#      bytes         us  algbw GB/s  busbw GB/s
        4096      100.0       0.041       0.041
    16777216    10100.0       1.661       1.661
"""


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 1e-4), (4096, 1e-4), (8390656, 5.1e-3), (33554432, 20.2e-3)]
)
def test_the_time_of_an_all_reduce_is_read_between_the_sizes_that_were_measured(size, expected):
    assert scaling.allreduce_seconds(PRINTED, size) == pytest.approx(expected)


def test_a_study_tells_efficiency_beside_its_limit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "draw", lambda *_: None)

    def run(batch, step):
        return result(
            step_s=step, computation_s=9 * step, allreduce_s=step, gradient_bytes=16777216, note=""
        ) | {"global_batch_size": batch}

    runs = {"weak-1": run(100, 0.1), "weak-2": run(200, 0.125), "strong-2": run(100, 0.0625)}
    directory = written(tmp_path / "scaling", runs)
    (directory / "allreduce-2.txt").write_text(PRINTED)
    scaling.report(directory)
    rows = {
        (row["mode"], row["ranks"]): row
        for row in json.loads((directory / "scaling.json").read_text())["rows"]
    }
    assert [*rows] == [("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)]
    assert rows["weak", 2]["efficiency"] == pytest.approx(0.8)
    assert rows["strong", 2]["efficiency"] == pytest.approx(0.8)
    assert rows["strong", 2]["rate"] == pytest.approx(1600)
    assert rows["weak", 2]["limit"] == pytest.approx(0.1 / 0.1101)
    assert rows["strong", 2]["limit"] == pytest.approx(0.05 / 0.0601)
    assert rows["strong", 1]["limit"] == rows["strong", 1]["efficiency"] == 1
    assert "0.80" in capsys.readouterr().out


def test_the_runs_of_a_study_are_printed_for_its_job_and_a_wrong_list_costs_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling", "--lab", "cnn", "--ranks", "2,1", "--batch", "8"])
    assert scaling.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "strong 2 --global-batch-size 8 --steps 40"
    monkeypatch.setattr(sys, "argv", ["scaling", "--lab", "cnn", "--ranks", "1;2"])
    with pytest.raises(SystemExit):
        scaling.main()
    assert "'1;2' is not a whole number of 1 or more" in capsys.readouterr().err
