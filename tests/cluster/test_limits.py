"""What Slurm grants is what a job gets, where the nodes' cgroups allow it."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def enforced(control):
    if "proctrack/cgroup" not in control.check_output("scontrol show config"):
        pytest.skip("these nodes' cgroups are not writable, so Slurm runs without them; see docs/support.md")


def test_a_job_sees_its_cores_only(user):
    job = user.script("nproc; srun nproc", "-N 1 -n 1 -c 1")
    assert job.output.split() == ["1", "1"]


def test_a_job_over_its_memory_is_killed_and_the_account_says_why(user):
    job = user.script(
        "srun python3 -c 'b = bytearray(900 << 20); print(len(b))'", "-N 1 -n 1 -c 1 --mem 200M"
    )
    assert job.state in {"OUT_OF_MEMORY", "FAILED"}
    assert "oom" in job.output.lower(), job.output
    assert str(900 << 20) not in job.output


def test_the_same_program_within_its_memory_is_not_killed(user):
    job = user.script(
        "srun python3 -c 'b = bytearray(900 << 20); print(len(b))'", "-N 1 -n 1 -c 1 --mem 1200M"
    )
    assert job.state == "COMPLETED", job.output
