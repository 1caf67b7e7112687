"""Jobs as users submit them: MPI, accounting, failures."""

import json

import pytest

WHO = "from mpi4py import MPI; c = MPI.COMM_WORLD; print('rank', c.rank, c.size, MPI.Get_processor_name())"


def ranks(job):
    rows = [line.split()[1:] for line in job.output.splitlines() if line.startswith("rank ")]
    assert job.state == "COMPLETED", job.output
    return sorted((int(rank), int(size), node) for rank, size, node in rows)


def hello(user, shared, arguments):
    job = user.script(
        f'srun --mpi=pmix apptainer exec {shared}/images/lab-x86_64.sif python -c "{WHO}"', arguments
    )
    return ranks(job)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_on_several_nodes_find_each_other(user, nodes, shared, count):
    if count > len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes; boot it with make cluster NODES={count}")
    seen = hello(user, shared, f"-N {count} --ntasks-per-node 1")
    assert [(rank, size) for rank, size, _ in seen] == [(rank, count) for rank in range(count)]
    assert len({node for *_, node in seen}) == count


def test_two_ranks_on_one_node_find_each_other(user, shared):
    seen = hello(user, shared, "-N 1 -n 2 -c 1")
    assert [(rank, size) for rank, size, _ in seen] == [(0, 2), (1, 2)]
    assert len({node for *_, node in seen}) == 1


def test_two_ranks_on_one_node_get_a_core_each(user):
    job = user.script("srun sh -c 'cat /proc/self/status' | grep Cpus_allowed_list", "-N 1 -n 2 -c 1")
    allowed = [line.split()[-1] for line in job.output.splitlines()]
    assert sorted(allowed) == ["0", "1"], job.output


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


def test_a_missing_image_is_named_before_anything_starts(user):
    job = user.submit("-N 1 ~/jobs/cnn_horovod.sh", environment="MINSKY_IMAGE=/shared/images/none.sif")
    assert job.state == "FAILED"
    assert "/shared/images/none.sif" in job.output
    assert "Traceback" not in job.output


def test_submitting_where_the_directory_is_not_shared_is_refused_with_what_to_do(user, nodes):
    sent = user.run(
        "mkdir -p /tmp/mine && cd /tmp/mine && sbatch --parsable --wait -N 1 ~/jobs/cnn_horovod.sh"
    )
    number = sent.stdout.split()[0]
    assert sent.rc != 0, "the job should not have succeeded"
    said = "".join(
        node.run(f"cat /tmp/cnn-{number}.out /tmp/mine/cnn-{number}.out 2>/dev/null").stdout for node in nodes
    )
    assert "/tmp/mine" in said
    assert "share" in said


def test_the_plot_and_the_results_of_two_users_at_once_do_not_meet(users, wait_until):
    arguments = "-N 1 -n 1 -c 1 --mem 1500M ~/jobs/cnn_horovod.sh --steps 3"
    numbers = [user.check(f"mkdir -p both && cd both && sbatch --parsable {arguments}") for user in users[:2]]
    for user, number in zip(users, numbers, strict=False):
        wait_until(
            lambda user=user, number=number: "COMPLETED" in user.check(f"scontrol show job -o {number}"),
            f"job {number} of {user.name} completed",
            180,
        )
        kept = json.loads(user.check(f"cat both/results/cnn-{number}/result.json"))
        assert kept["lab"] == "cnn"
        assert user.check(f"stat -c %U both/results/cnn-{number}/curves.png") == user.name
