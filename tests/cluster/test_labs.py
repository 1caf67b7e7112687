"""Every lab as students submit it, on two ranks; a sweep; a study of scaling."""

import re
from importlib import import_module
from shlex import quote

import pytest


@pytest.fixture(scope="module")
def two(nodes):
    """Nodes for two ranks; where there is only one, both are on it."""
    return "-N 2" if len(nodes) > 1 else "-N 1 -n 2"


def test_a_lab_runs_on_two_ranks(user, two, lab):
    knobs = vars(import_module(f"labs.{lab}").knobs().parse_args([]))
    short = " ".join(f"--{length} 10" for length in ("steps", "pretraining") if length in knobs)
    job = user.submit(f"{two} ~/jobs/{lab}_horovod.sh {short}")
    assert job.state == "COMPLETED", job.output
    assert (job.result["lab"], job.result["ranks"]) == (lab, 2)
    assert user.check(f"head -c 4 {job.result['plot']} | tail -c 3") == "PNG"
    assert job.output.rstrip().splitlines()[-1].startswith("RESULT ")
    assert "Traceback" not in job.output


def test_a_lab_by_hand_runs_on_two_ranks(user, two):
    job = user.submit(f"{two} ~/jobs/by_hand.sh linear_regression")
    assert job.state == "COMPLETED", job.output
    assert job.result["ranks"] == 2
    assert job.result["cost"] == pytest.approx(0.076928837, abs=1e-8)


def test_a_sweep_collects_its_points_in_a_table_and_a_figure_and_runs_none_twice(user, wait_until):
    def sweep():
        number = user.send("--array=0-1%2 ~/jobs/sweeps/learning_rates.sh --epochs 50", "sweep")
        file = f"sweep/learning_rates-{number}.out"
        wait_until(lambda: "RESULT " in user.run(f"cat {file}").stdout, f"the table in ~/{file}", 300)
        return user.check(f"cat {file}"), user.check(f"cat sweep/learning_rates-{number}_*.out")

    table, outputs = sweep()
    points = [line.split()[0] for line in table.splitlines() if line.startswith("learning-rate=")]
    assert points == ["learning-rate=0.001", "learning-rate=0.003"], table
    assert outputs.count("RESULT ") == 2
    drawn = re.search(r'"plot": "(\S+\.png)"', table)[1]
    assert user.check(f"head -c 4 {drawn} | tail -c 3") == "PNG"
    table, outputs = sweep()
    assert outputs.count("there is a result in") == 2
    assert "RESULT " not in outputs


def test_a_study_of_scaling_tells_efficiency_beside_its_limit(user, two):
    job = user.submit(f"{two} ~/jobs/scaling.sh --lab neural_network --ranks 1,2")
    assert job.state == "COMPLETED", job.output
    rows = {(row["mode"], row["ranks"]): row for row in job.result["rows"]}
    assert [*rows] == [("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)]
    for row in rows.values():
        assert row["step_s"] > 0
        assert 0 < row["limit"] <= 1
    assert user.check(f"head -c 4 {job.result['plot']} | tail -c 3") == "PNG"


def test_a_study_with_more_ranks_than_places_says_how_many_nodes_to_ask_for(user):
    job = user.submit("-N 1 ~/jobs/scaling.sh --lab cnn --ranks 1,4")
    assert job.state == "FAILED"
    assert "4 ranks were asked for, and this job has room for 1: sbatch -N 4" in job.output
    assert "scaling, 1 ranks" not in job.output


PNG = """
import struct, zlib
from pathlib import Path

def png(grey):
    rows = b"".join(b"\\0" + bytes([grey] * 20) for _ in range(20))
    parts = {b"IHDR": struct.pack(">2I5B", 20, 20, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    def long(number):
        return struct.pack(">I", number)

    chunks = [long(len(d)) + n + d + long(zlib.crc32(n + d)) for n, d in parts.items()]
    return b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(chunks)

for number in range(20):
    place = Path("pictures", ["dark", "light"][number % 2])
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{number}.png").write_bytes(png(50 + 100 * (number % 2) + number))
"""


def test_pictures_below_another_directory_become_shards_beside_the_jobs_output(user, two):
    user.check(f"python3 -c {quote(PNG)}")
    job = user.submit(f"{two} ~/jobs/shards.sh ~/pictures --shards 2")
    assert job.state == "COMPLETED", job.output
    assert "train  16 pictures in 2 shards" in job.output
    assert "test   4 pictures in 2 shards" in job.output
    assert user.check(f"ls work/shards-{job.number}").split()[0] == "shards.json"
