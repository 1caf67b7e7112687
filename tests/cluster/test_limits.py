"""What Slurm grants is what a job gets, where the nodes' cgroups allow it."""

import re

import pytest

# Stands for a device that Slurm hands out: reading it succeeds for everyone whom no cgroup keeps from it.
DEVICE = "/dev/zero"
READ = f"head -c 4 {DEVICE} | wc -c"


@pytest.fixture(scope="module", autouse=True)
def enforced(control):
    if "proctrack/cgroup" not in control.check_output("scontrol show config"):
        pytest.skip("these nodes' cgroups are not writable, so Slurm runs without them; see docs/support.md")


def test_a_job_sees_its_cores_only(user, print_cores):
    job = user.script(f"{print_cores}; srun {print_cores}", "-N 1 -n 1 -c 1 --hint=nomultithread")
    assert [len(line.split()) for line in job.output.splitlines()] == [1, 1], job.output


@pytest.fixture(scope="module")
def some(control):
    """MiB that fit four times into half of the smallest node, and are soon filled on a large one."""
    sizes = re.findall(r"RealMemory=(\d+)", control.check_output("scontrol show node"))
    return min(4096, *map(int, sizes)) // 8


def fill(user, mib, limit):
    program = f"srun python3 -c 'print(len(bytearray({mib} << 20)) >> 20, \"MiB\")'"
    return user.script(program, f"-N 1 -n 1 -c 1 --mem {limit}M")


def test_a_job_over_its_memory_is_killed_and_the_account_says_why(user, some):
    job = fill(user, 2 * some, some)
    assert job.state in {"OUT_OF_MEMORY", "FAILED"}
    assert "oom" in job.output.lower(), job.output
    assert f"{2 * some} MiB" not in job.output


def test_the_same_program_within_its_memory_is_not_killed(user, some):
    job = fill(user, 2 * some, 4 * some)
    assert job.state == "COMPLETED", job.output
    assert f"{2 * some} MiB" in job.output


@pytest.fixture
def handed_out(control, nodes, virtual):
    """Slurm hands out DEVICE, one a node, as it would hand out a GPU; afterwards it does not any more."""
    if "gpu:" in control.check_output("sinfo -h -o %G"):
        pytest.skip("these nodes have GPUs already: make cluster CLASS=none")
    daemons = [(control, "slurmctld"), *((node, "slurmd") for node in nodes)]

    def restart():
        for host, daemon in daemons:
            host.check_output(f"systemctl restart {daemon}")

    control.check_output(
        "mkdir /etc/slurm/kept && cp -a /etc/slurm/slurm.conf /etc/slurm/gres.conf /etc/slurm/kept && "
        "sed -i '/^NodeName=/s/$/ Gres=simulated:1/; $aGresTypes=simulated' /etc/slurm/slurm.conf && "
        f"echo 'Name=simulated File={DEVICE}' > /etc/slurm/gres.conf"
    )
    try:
        restart()
        yield
    finally:
        control.check_output("mv /etc/slurm/kept/* /etc/slurm && rmdir /etc/slurm/kept")
        restart()


def test_a_device_is_open_to_the_job_that_was_given_it_and_closed_to_any_other(user, handed_out, wait_until):
    wait_until(lambda: "idle" in user.check("sinfo -h -o %T"), "nodes are idle with a device to hand out")
    given = user.script(READ, "-N 1 -n 1 -c 1 --gres simulated:1")
    other = user.script(READ, "-N 1 -n 1 -c 1")
    assert given.output.split() == ["4"]
    assert re.search("Operation not permitted|Permission denied", other.output), other.output
