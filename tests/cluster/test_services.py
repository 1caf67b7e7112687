"""The cluster stands: daemons, mounts, nodes."""

import pytest


def test_every_host_authenticates_and_mounts_the_shared_file_system(everyone, shared):
    for host in everyone:
        assert host.service("munge").is_running, host
        assert host.mount_point(shared).exists, f"{shared} is not mounted on {host}"
        assert host.mount_point(shared).filesystem.startswith("fuse."), host


def test_controller_and_accounting_run_there_and_daemons_of_jobs_on_the_nodes(control, nodes):
    for name in ("slurmctld", "slurmdbd", "mariadb"):
        assert control.service(name).is_running, control.run(f"journalctl -u {name} -n 30").stdout
    for node in nodes:
        assert node.service("slurmd").is_running, node.run("journalctl -u slurmd -n 30").stdout


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


def test_secrets_are_their_owners_only(control, everyone):
    for host in everyone:
        key = host.file("/etc/munge/munge.key")
        assert (key.user, key.mode) == ("munge", 0o400), host
    assert control.file("/etc/slurm/slurmdbd.conf").mode == 0o600


def test_users_have_one_number_everywhere_and_a_home_of_their_own(users, everyone):
    for user in users:
        assert len({host.user(user.name).uid for host in everyone}) == 1
        assert everyone[0].file(everyone[0].user(user.name).home).mode == 0o700


def test_a_first_login_brings_the_jobs_and_a_later_one_leaves_them_alone(users):
    for user in users:
        user.check("test -w jobs/cnn_horovod.sh")
    users[0].check("echo '# mine' >> jobs/env.sh")
    assert users[0].check("tail -n 1 jobs/env.sh") == "# mine"
    users[0].check("sed -i '$d' jobs/env.sh")


def test_a_container_starts_by_mounting_its_image_and_not_by_unpacking_it(user, shared):
    job = user.script(f"apptainer exec {shared}/images/lab-x86_64.sif sh -c 'cat /proc/[0-9]*/comm'", "-N 1")
    assert job.state == "COMPLETED", job.output
    assert "squashfuse_ll" in job.output.split()
    assert "Converting SIF file to temporary sandbox" not in job.output


@pytest.mark.parametrize("name", ["vm.swappiness", "kernel.pid_max"])
def test_a_node_cannot_write_what_it_shares_with_its_host(nodes, virtual, name):
    value = nodes[0].check_output(f"sysctl -n {name}")
    assert nodes[0].run(f"sysctl -w {name}={value}").rc != 0
