"""site.yml changes what is wrong, says so, and nothing else."""

import json

import docker
import pytest

from minsky.virtual import PREFIX


def test_drift_is_repaired_and_reported_as_exactly_that(site, control, nodes, variables, virtual):
    first, second = nodes[0], nodes[-1]
    student = variables["users_accounts"][1]["name"]
    before = control.check_output("sha256sum /etc/slurm/slurm.conf")
    control.check_output("echo 'MaxJobCount=17' >> /etc/slurm/slurm.conf")
    first.check_output("systemctl stop munge")
    second.check_output("chmod 0644 /etc/munge/munge.key")
    second.check_output(f"userdel {student}")
    control.check_output("sacctmgr -i add user gone account=users")

    left = {"name": "gone", "uid": 2999, "state": "absent"}
    run = site("-e", json.dumps({"users_accounts": [*variables["users_accounts"], left]}))

    assert run.status == 0, run.text[-3000:]
    assert control.check_output("sacctmgr -n show user gone") == ""
    assert control.check_output("sha256sum /etc/slurm/slurm.conf") == before
    assert first.service("munge").is_running
    assert second.file("/etc/munge/munge.key").mode == 0o400
    assert second.user(student).exists
    one, other = (node.check_output("hostname") for node in (first, second))
    assert run.changed == {
        ("slurm : Configure Slurm", "control"),
        ("slurm : Reconfigure", "control"),
        ("users : Take those who left out of it, where their jobs stay", "control"),
        ("munge : Run Munge", one),
        ("munge : Give every node this key", other),
        ("munge : Restart Munge", other),
        ("users : Keep a group for each user", other),  # userdel takes it with the user
        ("users : Keep the accounts", other),
    }


def test_a_run_on_a_cluster_that_is_as_it_should_be_changes_nothing(site):
    run = site()
    assert run.status == 0, run.text[-3000:]
    assert run.changed == set()


@pytest.mark.parametrize("limit", [[], ["--limit", "slurm_node[0]"]], ids=["all hosts", "one host"])
def test_a_misspelt_variable_is_refused_before_anything_changes(site, limit):
    run = site(*limit, "-e", json.dumps({"slurm_partiton": "batch"}))
    assert run.status != 0
    assert run.changed == set()
    assert "slurm_partiton" in run.text


def test_a_file_system_of_unknown_type_is_refused_with_the_types_there_are(site):
    wrong = [{"name": "shared", "type": "glustre", "mount": "/shared", "servers": []}]
    run = site("-e", json.dumps({"cluster_filesystems": wrong}))
    assert run.status != 0
    assert run.changed == set()
    assert "glustre" in run.text
    assert "gluster" in run.text.replace("glustre", "")


def test_a_node_that_reboots_mounts_again_before_it_takes_jobs(nodes, control, shared, virtual, wait_until):
    node = nodes[-1]
    name = node.check_output("hostname")
    container = docker.from_env().containers.get(f"{PREFIX}{name}")
    container.restart(timeout=20)

    def idle():
        states = control.check_output(f"sinfo -h -n {name} -o %T").split()
        # by Docker: sshd is not there yet at first
        return (
            set(states) == {"idle"} and container.exec_run("systemctl is-active slurmd").output == b"active\n"
        )

    wait_until(idle, f"{name} idle after its reboot", 120)
    assert node.mount_point(shared).exists
