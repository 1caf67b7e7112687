"""Jobs as users submit them: MPI, accounting, failures."""

import json

import pytest

A_CORE_EACH = "-n 2 -c 1 --hint=nomultithread"  # where cores have several threads, two CPUs may be one core
WHO = "from mpi4py import MPI; c = MPI.COMM_WORLD; print('rank', c.rank, c.size, MPI.Get_processor_name())"


def ranks(job):
    rows = [line.split()[1:] for line in job.output.splitlines() if line.startswith("rank ")]
    assert job.state == "COMPLETED", job.output
    return sorted((int(rank), int(size), node) for rank, size, node in rows)


def hello(user, arguments):
    return ranks(
        user.script(
            f'. ~/jobs/env.sh; srun --mpi=pmix apptainer exec "$MINSKY_IMAGE" python -c "{WHO}"', arguments
        )
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_on_several_nodes_find_each_other(user, nodes, count):
    if count > len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes; boot it with make cluster NODES={count}")
    seen = hello(user, f"-N {count} --ntasks-per-node 1")
    assert [(rank, size) for rank, size, _ in seen] == [(rank, count) for rank in range(count)]
    assert len({node for *_, node in seen}) == count


def test_two_ranks_on_one_node_find_each_other(user):
    seen = hello(user, f"-N 1 {A_CORE_EACH}")
    assert [(rank, size) for rank, size, _ in seen] == [(0, 2), (1, 2)]
    assert len({node for *_, node in seen}) == 1


def test_two_ranks_on_one_node_get_a_core_each(user, print_cores):
    job = user.script(f"srun {print_cores}", f"-N 1 {A_CORE_EACH}")
    first, second = map(str.split, job.output.splitlines())
    assert len(first) == len(second) == 1, job.output
    assert first != second


def test_accounting_keeps_a_jobs_end_and_exit_code(user, wait_until):
    job = user.script("exit 7", "-N 1")
    row = wait_until(
        lambda: (
            (out := user.check(f"sacct -X -n -P -j {job.number} -o State,ExitCode"))
            and "FAILED" in out
            and out
        ),
        "sacct shows the failed job",
    )
    assert row == "FAILED|7:0"


def test_an_unknown_option_fails_the_job_with_a_sentence(user):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh --learning-rte 0.1")
    assert job.state == "FAILED"
    assert "--learning-rte" in job.output
    assert "Traceback" not in job.output


def test_an_unknown_optimizer_is_answered_with_the_list(user):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh --optimizer adm")
    assert job.state == "FAILED"
    assert "adm" in job.output
    assert "adam" in job.output


def test_a_lab_that_breaks_on_one_rank_ends_the_job_with_the_reason(user):
    user.check("rm -rf broken && cp -r jobs broken && rm -f broken/labs/cnn.py")
    user.check(
        "cat > broken/labs/cnn.py <<'END'\n"
        "import horovod.tensorflow as hvd\n"
        "hvd.init()\n"
        "if hvd.rank() == 1:\n"
        "    raise SystemExit('rank 1 found the tape torn')\n"
        "hvd.barrier()\n"
        "END"
    )
    job = user.submit("-N 2 ~/broken/cnn_horovod.sh")
    assert job.state == "FAILED"
    assert "rank 1 found the tape torn" in job.output


def test_a_missing_image_is_named_before_anything_starts(user, shared):
    image = f"{shared}/images/none.sif"
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh", environment=f"MINSKY_IMAGE={image}")
    assert job.state == "FAILED"
    assert image in job.output
    assert "Traceback" not in job.output


@pytest.mark.parametrize("launcher", ["", "salloc -N 1"], ids=["without Slurm", "in an allocation"])
def test_a_lab_runs_outside_of_a_batch_job(user, launcher):
    done = user.run(f"mkdir -p work && cd work && {launcher} bash ~/jobs/cnn_horovod.sh --steps 2")
    assert done.rc == 0, done.stdout + done.stderr
    *_, last = done.stdout.rstrip().splitlines()
    result = json.loads(last.removeprefix("RESULT "))
    assert (result["ranks"], result["steps"]) == (1, 2)


def test_submitting_where_the_directory_is_not_shared_is_refused_with_what_to_do(user, wait_until):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh", directory="/tmp/mine")
    said = user.check(f"cat ~/cnn-{job.number}.out")
    assert "/tmp/mine, a directory that the nodes do not share: submit it from your home directory" in said
    wait_until(
        lambda: user.check(f"sacct -X -n -P -j {job.number} -o State") == "FAILED",
        f"sacct shows that job {job.number} failed",
    )


def edited(user, name, value):
    """Set *name* in a copy of env.sh; what reads it into a shell."""
    edit = f"s/^# export {name}=.*/export {name}={value}/"
    user.check(f"mkdir -p work && sed '{edit}' jobs/env.sh > work/env.sh")
    return ". ./env.sh &&"


def test_a_partition_set_in_env_sh_is_the_one_that_sbatch_asks_for(user):
    environment = edited(user, "SBATCH_PARTITION", "none")
    refused = user.run(f"cd work && {environment} sbatch -N 1 --wrap true")
    assert refused.rc != 0
    assert "invalid partition" in refused.stderr.lower()


@pytest.fixture
def reservation(control, user, virtual):
    settings = f"starttime=now duration=10 nodecnt=1 users={user.name}"
    control.check_output(f"scontrol create reservation reservationname=lesson {settings}")
    yield "lesson"
    control.check_output("scontrol delete reservationname=lesson")


def test_a_job_runs_in_the_reservation_set_in_env_sh(user, reservation):
    environment = edited(user, "SBATCH_RESERVATION", reservation)
    job = user.submit("-N 1 --wrap true", environment=environment)
    assert (job.state, job.shown["Reservation"]) == ("COMPLETED", reservation)


@pytest.fixture
def common(control, shared):
    """A directory on the shared file system in which everyone may write."""
    directory = control.check_output(f"mktemp -d {shared}/common.XXXXXX")
    control.check_output(f"chmod 1777 {directory}")
    yield directory
    control.check_output(f"rm -r {directory}")


def test_two_users_at_once_in_one_directory_do_not_meet(users, nodes, common, control):
    if min(len(users), len(nodes)) < 2:
        pytest.skip("two jobs at once, a node each, need two users and two nodes: make cluster NODES=2")
    sent = [(user, user.send("-N 1 ~/jobs/cnn_horovod.sh --steps 3", common)) for user in users[:2]]
    jobs = [user.end(number) for user, number in sent]
    for job, (user, number) in zip(jobs, sent, strict=True):
        assert job.state == "COMPLETED", job.output
        assert json.loads(control.check_output(f"cat {common}/cnn-{number}/result.json"))["lab"] == "cnn"
        for file in (f"cnn-{number}.out", f"cnn-{number}/curves.png"):
            assert control.file(f"{common}/{file}").user == user.name
    begins, ends = zip(*((job.shown["StartTime"], job.shown["EndTime"]) for job in jobs), strict=True)
    assert max(begins) < min(ends), f"one ended before the other began: {begins}, {ends}"
