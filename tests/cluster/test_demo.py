"""What `make demo` does on a cluster that stands."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_ends_on_the_jobs_result_and_brings_plot_and_result_home(boot, virtual):
    done = subprocess.run(
        [sys.executable, "-m", "minsky.cluster", "demo", "--steps", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.rstrip().splitlines()
    assert json.loads(last.removeprefix("RESULT "))["steps"] == 5
    kept = max((ROOT / ".minsky" / "results").iterdir(), key=lambda path: path.stat().st_mtime)
    assert f"RESULT {json.dumps(json.loads(last.removeprefix('RESULT ')))}" in "".join(
        path.read_text() for path in kept.glob("*.out")
    )
    assert next(kept.rglob("curves.png")).read_bytes().startswith(b"\x89PNG")
