"""The ranks of jobs/smoke.sh, where they run: in the lab image."""

import json

import pytest


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_agree_and_tell_what_an_all_reduce_carries_without_a_verdict(lab, ranks):
    mpirun = f"mpirun -n {ranks} --oversubscribe" if ranks > 1 else ""
    ran = lab.run(
        "mkdir smoke\n"
        f"{mpirun} python /jobs/smoke.py ranks smoke --mib 4\ncat smoke/ranks.json; echo\n"
        "python /jobs/smoke.py table smoke --nodes $(uname -n) || true"
    )
    told = json.loads(next(line for line in ran.said.splitlines() if line.startswith("[[")))
    assert len(told) == ranks
    found = {each["name"]: each for each in told[0][1]}
    assert found["tensorflow"]["verdict"] == "ok"
    assert found["horovod"]["verdict"] == ("ok" if ranks == 2 else "skipped"), found
    assert ("allreduce-inside" in found) == (ranks == 2)
    if ranks == 2:
        assert "without a verdict: MPI" in found["allreduce-inside"]["found"]
    assert list(ran.result["failed"].values()) == [["nodecheck"]]  # which an image has not
