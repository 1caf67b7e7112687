"""The order and the last words of .ci/run, over stand-ins for make and for what it starts."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = """\
venv:
	@install -D stub .venv/bin/python
test:
	@echo "data $$MINSKY_DATA" && echo '{summary}' && echo 'something after it' && exit {status}
"""


@pytest.fixture
def ci(tmp_path):
    def run(summary, status):
        checkout = tmp_path / "checkout"
        (checkout / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
        (checkout / "stub").write_text('#!/bin/sh\necho ran "$@"\n')
        (checkout / "Makefile").write_text(MAKEFILE.format(summary=summary, status=status))
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "MINSKY_DATA" and not name.startswith("MAKE")
        }
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
    started, stopped = (lines.index(f"ran -m minsky.host {verb}") for verb in ("start", "stop"))
    assert started < lines.index("ran -m minsky.cluster remains") < lines.index(summary)
    assert lines.index(summary) < lines.index("ran -m minsky.cluster down") < stopped
    assert [line.split()[0] for line in lines if line.endswith(" s")] == [
        "tools", "python", "docker", "remains", "test", "down", "stop", "total",
    ]  # fmt: skip


def test_a_red_run_has_the_status_of_the_tests_and_still_stops_what_it_started(ci):
    done = ci("=========== 1 failed, 3 passed in 2.00s ===========", 2)
    assert done.returncode == 2
    assert "ran -m minsky.host stop" in done.stdout
    assert done.stdout.splitlines()[-1] == "=========== 1 failed, 3 passed in 2.00s ==========="


def test_a_run_that_never_reaches_pytest_ends_on_the_last_line_that_there_is(ci):
    done = ci("ruff: a line is too long", 1)
    assert done.returncode == 2  # make's own, for a recipe that failed
    assert (
        done.stdout.splitlines()[-1].startswith("make:")
        or "something after it" in done.stdout.splitlines()[-1]
    )
