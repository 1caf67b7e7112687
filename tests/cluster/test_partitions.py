"""Which jobs Slurm takes where, how many of a user, and what users see of each other."""

import pytest


@pytest.fixture
def hours(variables):
    return variables.get("slurm_interactive_max_hours", 4)


def test_a_job_that_names_no_partition_runs_in_batch(user):
    job = user.submit("-N 1 --wrap true")
    assert (job.state, job.shown["Partition"]) == ("COMPLETED", "batch")


def test_a_session_that_asks_for_more_hours_than_it_may_have_is_refused_with_slurms_reason(user, hours):
    refused = user.run(f"sbatch -p interactive -n 1 --time {hours + 1}:00:00 --wrap true")
    assert refused.rc != 0
    assert "QOSMaxWallDurationPerJobLimit" in refused.stderr


def test_a_session_that_names_no_time_has_the_hours_of_the_partition(user, hours):
    job = user.submit("-p interactive -n 1 --wrap true")
    assert (job.state, job.shown["TimeLimit"]) == ("COMPLETED", f"{hours:02}:00:00")


def test_of_a_users_sessions_one_runs_and_the_next_waits(user, wait_until):
    sent = [user.send("-p interactive -n 1 --wrap 'sleep 60'") for _ in range(2)]
    wanted = ["PENDING QOSMaxJobsPerUserLimit", "RUNNING None"]
    try:
        wait_until(
            lambda: sorted(user.check(f"squeue -h -j {','.join(sent)} -o '%T %r'").splitlines()) == wanted,
            f"one session runs and one waits: {wanted}",
        )
    finally:
        user.check(f"scancel {' '.join(sent)}")


def test_users_see_each_others_jobs_but_not_who_else_there_is(users, control):
    if len(users) < 2:
        pytest.skip("two users are needed: add one to users_accounts")
    one, other = users[:2]
    number = one.send("-n 1 --hold --wrap true")
    try:
        assert other.check(f"squeue -h -j {number} -o %u") == one.name
    finally:
        one.check(f"scancel {number}")
    assert one.name not in other.check("sacctmgr -n -P show user format=User").split()
    assert one.name in control.check_output("sacctmgr -n -P show user format=User").split()
