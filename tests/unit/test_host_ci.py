"""The order and the last words of .ci/run, over stand-ins for make and for what it starts."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = """\
venv:
	@install -D stub .venv/bin/python
test:
	@echo up 7.0 s >.minsky/log/stages-up
	@echo "data $$MINSKY_DATA" && echo '{summary}' && echo 'something after it' && exit {status}
"""


@pytest.fixture
def ci(tmp_path):
    def run(summary, status, **more):
        checkout = tmp_path / "checkout"
        (checkout / ".ci").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
        (checkout / "stub").write_text('#!/bin/sh\necho ran "$@" ${CI:+with CI=$CI}\n')
        (checkout / "Makefile").write_text(MAKEFILE.format(summary=summary, status=status))
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {"MINSKY_DATA", "CI"} and not name.startswith("MAKE")
        } | more
        return subprocess.run(
            ["bash", ".ci/run"],
            cwd=checkout, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_a_green_run_ends_on_pytests_summary_after_stopping_what_it_started(ci, tmp_path):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    summary = "==================== 12 passed, 1 skipped in 61.20s (0:01:01) ===================="
    done = ci(summary, 0)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == summary
    assert f"data {tmp_path}/shared/data" in lines
    started, stopped = (
        lines.index(f"ran -m minsky.dockerd {verb} with CI=true") for verb in ("start", "stop")
    )
    assert started < lines.index("ran -m minsky.cluster remains") < lines.index(summary)
    assert lines.index(summary) < lines.index("ran -m minsky.cluster down with CI=true") < stopped
    seconds = lines[lines.index("== seconds per stage") + 1 : -1]
    assert [line.split()[0] for line in seconds] == [
        "tools", "python", "docker", "remains", "test", "down", "stop", "of", "up", "total",
    ]  # fmt: skip
    assert seconds[-2] == "up 7.0 s"
    assert re.fullmatch(r"total +\d+ s \(goal on 2 cores, cold: 3600 s\)", seconds[-1])


def test_clusters_that_other_checkouts_run_are_removed_only_where_ci_was_set_by_who_called(ci):
    summary = "=========== 3 passed in 2.00s ==========="
    assert "ran -m minsky.cluster remains\n" in ci(summary, 0).stdout
    assert "ran -m minsky.cluster remains with CI=true\n" in ci(summary, 0, CI="true").stdout


def test_a_red_run_has_the_status_of_the_tests_and_still_stops_what_it_started(ci):
    done = ci("=========== 1 failed, 3 passed in 2.00s ===========", 2)
    assert done.returncode == 2
    assert "ran -m minsky.dockerd stop" in done.stdout
    assert done.stdout.splitlines()[-1] == "=========== 1 failed, 3 passed in 2.00s ==========="


def test_a_run_that_never_reaches_pytest_ends_on_the_last_line_that_there_is(ci):
    done = ci("ruff: a line is too long", 1)
    assert done.returncode == 2  # make's own, for a recipe that failed
    assert (
        done.stdout.splitlines()[-1].startswith("make:")
        or "something after it" in done.stdout.splitlines()[-1]
    )
