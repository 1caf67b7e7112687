"""What every lab has from the plumbing: signals, checkpoints, full disks, numbers that are none."""

import json
import re

import pytest

WILD = ("--optimizer", "adam", "--learning-rate", "9e5", "--warmup", "0", "--steps", "50")
DIGITS = "env MINSKY_DATA_DIR=/none python -m labs.cnn"


def losses(said):
    """The histories that a script printed, one per line."""
    return [json.loads(line)["history"]["loss"] for line in said.splitlines() if line.startswith('{"lab"')]


@pytest.mark.parametrize(
    "launch",
    [pytest.param("", marks=pytest.mark.long), "mpirun -n 2 --oversubscribe "],
    ids=["1 rank", "2 ranks"],
)
def test_a_run_that_is_told_to_stop_saves_and_leaves_and_ends_as_if_it_had_not_been(lab, launch):
    ran = lab.run(
        f"run() {{ {launch}{DIGITS} --global-batch-size 128 --steps 120 --results $1; }}\n"
        "ranks() { grep -lx 'python.*' /proc/[0-9]*/comm | cut -d/ -f3; }\n"
        "run whole; cat whole/result.json\n"
        "for signal in USR1 TERM; do\n"
        "  : >out; run broken-$signal >out & job=$!\n"
        "  while kill -0 $job && ! grep -q ^step out; do sleep .1; done\n"
        "  kill -$signal $(ranks | head -n 1); status=0; wait $job || status=$?; cat out\n"
        "  echo status $status; run broken-$signal; cat broken-$signal/result.json\n"
        "done"
    )
    assert ran.status == 0, ran.said
    assert re.findall(r"(?m)^status (\d+)$", ran.said) == ["75", "75"], ran.said
    assert len(re.findall(r"stopped by .* after step \d+: with --results /tmp/broken-", ran.said)) == 2
    continued = [int(step) for step in re.findall(r"continuing from step (\d+) in", ran.said)]
    assert len(continued) == 2
    assert all(0 < step < 120 for step in continued), ran.said
    whole, *others = losses(ran.said)
    assert len(whole) == 120
    for other in others:
        assert other == whole


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_old_one(lab):
    ran = lab.run(
        f"{DIGITS} --steps 2 --results /small/run\n"
        f"! {DIGITS} --steps 4 --results /small/run || exit 9\n"
        "! ls -A /small/run/checkpoints | grep ckpt-4 || exit 8\n"
        f"{DIGITS} --steps 2 --results /small/run",
        tmpfs="60m",
    )
    assert ran.status == 0, ran.said
    assert "checkpoint of step 4 could not be written to /small/run/checkpoints" in ran.said
    assert "the one of step 2 stays: make room, or name a place with --results" in ran.said
    assert "Traceback" not in ran.said
    assert "all 2 steps had been trained: this is their result" in ran.said


def test_a_loss_that_is_no_number_ends_the_training_with_what_to_change(lab):
    ran = lab.program("labs.cnn", *WILD, ranks=2)
    assert ran.status == 1
    assert re.search(
        r"the loss is (nan|inf) at step \d+: training diverges; use a smaller --learning-rate", ran.said
    )
    assert "Traceback" not in ran.said


def test_a_checkpoint_of_another_lab_is_refused(lab):
    ran = lab.run(
        f"{DIGITS} --steps 2 --results run\n"
        'mkdir other; cp -r /jobs/labs other; sed -i \'s/"cnn",$/"rnn",/\' other/labs/cnn.py\n'
        "export PYTHONPATH=other MINSKY_DATA_DIR=/none\n"
        "! python -m labs.cnn --steps 4 --results run"
    )
    assert ran.status == 0, ran.said
    assert "holds a checkpoint with lab cnn, this run has rnn" in ran.said


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(lab):
    ran = lab.run(
        f"{DIGITS} --steps 2 --results run; {DIGITS} --steps 4 --results run\n"
        "truncate -s 1000 run/checkpoints/ckpt-4.data*\n"
        f"{DIGITS} --steps 4 --results run"
    )
    assert "/ckpt-4 is damaged and left alone" in ran.said
    assert "continuing from step 2 in /tmp/run" in ran.said
    assert ran.result["steps"] == 4
