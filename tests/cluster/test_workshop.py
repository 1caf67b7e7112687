"""A class of forty, as its teacher opens, changes and closes it."""

import subprocess
from datetime import date, timedelta
from pathlib import Path

import pytest

from minsky import cluster

ROOT = Path(__file__).resolve().parents[2]
CLASS = "pupil"  # not the default: a class that is open stays
GID = 30000
NAMES = [f"{CLASS}{number:02}" for number in range(1, 41)]
LAST = date.today() + timedelta(2)  # noqa: DTZ011 - the day on this machine
OPTIONS = {
    "prefix": CLASS, "gid": GID, "ends": LAST, "students": len(NAMES), "nodes": 1,
    "max_jobs": 1, "max_submit": 3, "max_minutes": 10,
}  # fmt: skip
KEYS = ROOT / ".minsky" / "workshop" / f"minsky-{CLASS}"


def arguments(**changes):
    values = OPTIONS | changes
    return [word for name, value in values.items() for word in ("-e", f"workshop_{name}={value}")]


def make(verb):
    done = subprocess.run(
        ["make", verb, f"ARGS={' '.join(arguments())}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(host, database, name=CLASS):
    return host.run(f"getent {database} | grep ^{name}").stdout.splitlines()


@pytest.fixture(scope="module")
def said(virtual, control, nodes, shared):
    """Open the class; what that says."""
    if len(nodes) < 2:
        pytest.skip("the class takes one node, and others must find another: make cluster NODES=2")
    forget = f"rm -rf {shared}/home/.closed-{CLASS}-*"
    control.check_output(forget)  # of a run that was killed
    try:
        yield make("workshop")
    finally:
        make("workshop-end")
        control.check_output(forget)


@pytest.fixture(scope="module")
def students(said, users):
    return [type(users[0])(name, users[0].control) for name in NAMES]


def log_in(name, key):
    words = [str(KEYS / key) if word == str(cluster.KEY) else word for word in cluster.ssh(name, "id -un")]
    return subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_accounts_have_one_number_everywhere_and_are_closed_after_the_last_day(said, everyone):
    assert f"{NAMES[0]} to {NAMES[-1]} are open to the end of {LAST}" in said
    for host in everyone:
        found = [line.split(":")[:4] for line in listed(host, "passwd")]
        assert found == [[name, "x", str(GID + n), str(GID + n)] for n, name in enumerate(NAMES, 1)], host
        closed = {line.split(":")[7] for line in listed(host, "shadow")}
        assert closed == {str((LAST + timedelta(1) - date(1970, 1, 1)).days)}, host


def test_a_student_logs_in_with_the_key_handed_out_and_with_no_other(said):
    assert log_in(NAMES[39], NAMES[39]).stdout == f"{NAMES[39]}\n"
    other = log_in(NAMES[39], NAMES[0])
    assert other.returncode != 0
    assert "Permission denied" in other.stderr


def test_each_student_has_the_jobs_in_a_home_that_nobody_else_reads(students, control, shared):
    first, second = students[:2]
    first.check("echo '# mine' >> jobs/env.sh")
    assert second.check("tail -n 1 jobs/env.sh") != "# mine"
    assert second.run(f"cat ~{first.name}/jobs/env.sh").rc != 0
    owners = control.check_output(f"stat -c %U {shared}/home/{CLASS}*/jobs/cnn_horovod.sh")
    assert owners.split() == NAMES


def test_forty_students_jobs_at_once_run_on_the_classs_node_under_its_qos(students, control, wait_until):
    send = "sbatch --parsable -n 1 --output /dev/null --wrap hostname"
    each = f"for name in {' '.join(NAMES)}; do runuser -l $name -c '{send}' </dev/null & done; wait"
    sent = control.check_output(each).split()
    assert len(sent) == len(NAMES)
    wait_until(lambda: not control.check_output(f"squeue -h -A {CLASS}"), "all of them have ended", 300)
    [node] = control.check_output(f"scontrol -o show reservation {CLASS} | grep -o ' Nodes=[^ ]*'").split()
    query = f"sacct -X -n -P -j {','.join(sent)} -o User,Account,QOS,Reservation,NodeList,State"
    wanted = [f"{name}|{CLASS}|{CLASS}|{CLASS}|{node.removeprefix('Nodes=')}|COMPLETED" for name in NAMES]
    wait_until(
        lambda: sorted(control.check_output(query).splitlines()) == wanted,
        f"sacct shows {wanted[0]} and its like",
    )


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("--array 0-3", "QOSMaxSubmitJobPerUserLimit"),
        ("--time 11", "QOSMaxWallDurationPerJobLimit"),
        ("--account users", "Invalid account"),
        ("--qos normal", "Invalid qos"),
    ],
)
def test_what_exceeds_a_limit_or_goes_around_it_is_refused_with_slurms_reason(students, job, reason):
    refused = students[0].run(f"sbatch -n 1 {job} --wrap true")
    assert refused.rc != 0
    assert reason in refused.stderr


def test_an_array_runs_as_many_tasks_at_once_as_a_student_may(students, wait_until):
    student = students[1]
    number = student.send("-n 1 --array 0-2 --wrap 'sleep 60'")
    wanted = ["PENDING QOSMaxJobsPerUserLimit"] * 2 + ["RUNNING None"]
    wait_until(
        lambda: sorted(student.check(f"squeue -h -r -j {number} -o '%T %r'").splitlines()) == wanted,
        f"one task runs and two wait: {wanted}",
    )
    student.check(f"scancel {number}")


def test_nobody_else_gets_the_classs_node(students, user):
    refused = user.run(f"sbatch -N 1 --reservation {CLASS} --wrap true")
    assert refused.rc != 0
    assert "Access denied to requested reservation" in refused.stderr
    assert user.script("true", "-N 1").state == "COMPLETED", "who is of no class has the other nodes"


def test_opening_an_open_class_changes_nothing(said, playbook):
    run = playbook("workshop.yml", *arguments())
    assert run.status == 0, run.text[-3000:]
    assert run.changed == set()


def test_a_class_that_would_take_somebodys_number_is_refused_before_anything_changes(
    playbook, variables, virtual
):
    somebody = variables["users_accounts"][0]
    run = playbook("workshop.yml", *arguments(prefix="other", gid=somebody["uid"] - 1))
    assert run.status != 0
    assert run.changed == set()
    assert f"user {somebody['name']} with number {somebody['uid']}" in run.text


def test_fewer_students_close_the_last_account_alone_and_keep_its_home(
    students, playbook, everyone, control, shared
):
    students[39].check("echo work > result")

    run = playbook("workshop.yml", *arguments(students=39, max_jobs=2))

    assert run.status == 0, run.text[-3000:]
    for host in everyone:
        assert [line.split(":")[0] for line in listed(host, "passwd")] == NAMES[:39], host
    kept = f"{shared}/home/.closed-{CLASS}-*/{NAMES[39]}/result"
    assert control.check_output(f"cat {kept}") == "work"
    assert not (KEYS / NAMES[39]).exists()
    limits = f"sacctmgr -n -P show qos {CLASS} format=MaxJobsPU,MaxSubmitJobsPU"
    assert control.check_output(limits) == "2|3"
    assert students[38].submit("-n 1 --wrap true").state == "COMPLETED"


def test_the_end_cancels_and_removes_all_but_the_work(students, playbook, everyone, control, shared):
    students[0].check("echo work > result")
    job = students[0].send("-n 1 --wrap 'sleep 600'")

    make("workshop-end")

    for host in everyone:
        assert listed(host, "passwd") == listed(host, "group") == [], host
    state = f"sacct -X -n -P -j {job} -o State"
    assert control.check_output(state).startswith("CANCELLED")
    assert CLASS not in control.check_output("scontrol show reservation")
    assert control.check_output(f"sacctmgr -n -P show qos {CLASS}") == ""
    assert control.check_output(f"sacctmgr -n -P show associations account={CLASS}") == ""
    kept = control.check_output(f"ls -d {shared}/home/.closed-{CLASS}-*/*").split()
    assert sorted(Path(home).name for home in kept) == NAMES
    assert control.file(str(Path(kept[0]).parent)).mode == 0o700
    assert control.check_output(f"cat {shared}/home/.closed-{CLASS}-*/{NAMES[0]}/result") == "work"
    assert list(KEYS.iterdir()) == []

    again = playbook("workshop.yml", *arguments(state="absent"))
    assert again.status == 0, again.text[-3000:]
    assert again.changed == set()
    assert "there is no such class" in again.text
