"""The cluster stands: daemons, mounts, nodes."""

import pytest


def test_every_host_authenticates_and_mounts_the_shared_file_systems(everyone, variables):
    for host in everyone:
        assert host.service("munge").is_running, host
        for filesystem in variables["cluster_filesystems"]:
            mounted = host.mount_point(filesystem["mount"])
            assert mounted.exists, f"{filesystem['mount']} is not mounted on {host}"
            assert filesystem["type"] in mounted.filesystem, host


@pytest.mark.parametrize(
    ("group", "service"),
    [
        ("slurm_controller", "slurmctld"),
        ("slurmdbd", "slurmdbd"),
        ("mariadb", "mariadb"),
        ("slurm_node", "slurmd"),
    ],
)
def test_each_group_runs_its_daemon(reach, group, service):
    for host in reach(group):
        assert host.service(service).is_running, host.run(f"journalctl -u {service} -n 30").stdout


def test_every_node_takes_jobs(control, nodes):
    states = dict(line.split() for line in control.check_output("sinfo -h -N -o '%N %T'").splitlines())
    assert len(states) == len(nodes)
    assert set(states.values()) <= {"idle", "mixed", "allocated"}, control.run("sinfo -R").stdout


def test_every_node_sees_a_file_that_another_wrote(everyone, shared):
    for number, writer in enumerate(everyone):
        writer.check_output(f"echo {number} > {shared}/.seen-{number}")
    for reader in everyone:
        assert reader.check_output(f"cat {shared}/.seen-*").split() == [str(n) for n in range(len(everyone))]
    everyone[0].check_output(f"rm {shared}/.seen-*")


def test_no_node_reads_slurms_configuration_from_a_file_of_its_own(nodes):
    for node in nodes:
        assert not node.file("/etc/slurm/slurm.conf").exists


def test_secrets_are_their_owners_only(everyone, reach):
    for host in everyone:
        key = host.file("/etc/munge/munge.key")
        assert (key.user, key.mode) == ("munge", 0o400), host
    for host in reach("slurmdbd"):
        assert host.file("/etc/slurm/slurmdbd.conf").mode == 0o600


def test_users_have_one_number_everywhere_and_a_home_of_their_own(users, everyone):
    for user in users:
        assert len({host.user(user.name).uid for host in everyone}) == 1
        assert everyone[0].file(everyone[0].user(user.name).home).mode == 0o700


def test_a_first_login_brings_the_jobs_and_a_later_one_leaves_them_alone(user, virtual):
    user.check("test -w jobs/cnn_horovod.sh")
    user.check("echo '# mine' >> jobs/env.sh")
    assert user.check("tail -n 1 jobs/env.sh") == "# mine"
    user.check("sed -i '$d' jobs/env.sh")


def test_a_container_starts_by_mounting_its_image_and_not_by_unpacking_it(user):
    job = user.script(
        """. ~/jobs/env.sh; apptainer exec "$MINSKY_IMAGE" sh -c 'cat /proc/[0-9]*/comm'""", "-N 1"
    )
    assert job.state == "COMPLETED", job.output
    assert "squashfuse_ll" in job.output.split()
    assert "Converting SIF file to temporary sandbox" not in job.output


@pytest.mark.parametrize("name", ["vm.swappiness", "kernel.pid_max"])
def test_a_node_cannot_write_what_it_shares_with_its_host(nodes, virtual, name):
    value = nodes[0].check_output(f"sysctl -n {name}")
    assert nodes[0].run(f"sysctl -w {name}={value}").rc != 0
