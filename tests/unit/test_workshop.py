"""Classes: what role workshop refuses, and the commands it gives, without a cluster."""

import re
from pathlib import Path

import pytest
import yaml

import workshop

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = yaml.safe_load((ROOT / "playbooks" / "roles" / "workshop" / "defaults" / "main.yml").read_text())
CLASS = {name.removeprefix("workshop_"): value for name, value in DEFAULTS.items()} | {
    "ends": "2027-02-12",
    "students": 3,
}
ENDED = CLASS | {"state": "absent"}
TODAY = "2027-02-08"
GROUP = "class:x:20000:class01,class02,class03\n"
PASSWD = "".join(f"class0{n}:x:2000{n}:2000{n}::/shared/home/class0{n}:/bin/bash\n" for n in (1, 2, 3))
SLURM = [
    "class|2|20|gres/gpu=2|01:00:00|DenyOnLimit,OverPartQOS\n",
    "class|\nclass|class01\nclass|class02\nclass|class03\n",
    """\
ReservationName=else StartTime=2027-01-01T00:00:00 EndTime=2027-02-13T00:00:00 NodeCnt=9 Accounts=users
ReservationName=class StartTime=2027-02-08T08:00:00 EndTime=2027-02-13T00:00:00 NodeCnt=2 Accounts=class
""",
]
NOTHING = ["", "", "No reservations in the system\n"]


def test_a_class_that_can_be_is_accepted():
    for right in (
        CLASS,
        CLASS | {"ends": TODAY},
        CLASS | {"nodes": 4, "max_gpus": 0, "students": 999},
        ENDED,
    ):
        assert workshop.workshop_refusals(right, TODAY, 4) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ends": ""}, "workshop_ends is '', which is no date.* workshop_ends: \"2027-02-12\""),
        ({"ends": "2027-02-30"}, "no date"),
        ({"ends": "2027-02-07"}, "workshop_ends is 2027-02-07, and that day is past"),
        ({"students": 0}, "workshop_students is 0"),
        ({"students": 1000}, "999 at most"),
        ({"nodes": 5}, "workshop_nodes is 5, but the cluster has 4 compute nodes"),
        ({"nodes": 0}, "Put at least 1"),
        ({"hours": -1}, "Put at least 0"),
        ({"max_jobs": 0}, "workshop_max_jobs is 0"),
        ({"max_minutes": "0"}, "workshop_max_minutes is 0"),
        ({"prefix": "Class"}, "workshop_prefix is 'Class'"),
        ({"prefix": "a.*"}, "login names"),
        ({"gid": 999}, "the system's"),
    ],
)
def test_a_class_that_cannot_be_is_refused_in_a_sentence(change, words):
    said = workshop.workshop_refusals(CLASS | change, TODAY, 4)
    assert len(said) == 1
    assert re.search(words, said[0])


def test_students_have_a_name_and_a_number_each_whatever_their_number():
    few, many = (workshop.workshop_students(CLASS | {"students": count}) for count in (3, "120"))
    assert few == many[:3] == [{"name": f"class0{n}", "uid": 20000 + n} for n in (1, 2, 3)]
    assert many[-1] == {"name": "class120", "uid": 20120}
    assert workshop.workshop_students(ENDED) == []


def test_names_and_numbers_that_nobody_has_or_the_class_itself_are_free():
    for found, slurm in ((["", ""], NOTHING), ([PASSWD, GROUP], SLURM), (["", ""], [])):
        assert workshop.workshop_clashes(CLASS, found, slurm) == []


@pytest.mark.parametrize(
    ("passwd", "group", "words"),
    [
        ("class02:x:1005:1005::/home/class02:/bin/sh\n", "", "user class02 with number 1005,"),
        ("ada:x:20003:20003::/home/ada:/bin/sh\n", GROUP, "user ada with number 20003,"),
        ("", "class:x:100:\n", "group class with number 100,"),
        ("", "physics:x:20000:\n", "group physics with number 20000,"),
        # without the class's group these are not its students
        (PASSWD, "", "user class01 with number 20001, user class02"),
    ],
)
def test_a_name_or_number_that_somebody_else_has_is_refused(passwd, group, words):
    said = workshop.workshop_clashes(CLASS, [passwd, group], NOTHING)
    assert len(said) == 1
    assert words in said[0]


def test_of_many_clashes_three_are_named():
    others = "".join(f"other{n}:x:2000{n}:100::/home/other{n}:/bin/sh\n" for n in range(1, 6))
    said = workshop.workshop_clashes(CLASS | {"students": 9}, [others, ""], [])
    assert "user other3 with number 20003, and 2 more, but" in said[0]


def test_a_qos_account_or_reservation_that_is_no_classs_is_left_alone():
    for number in range(3):
        slurm = [*NOTHING[:number], SLURM[number], *NOTHING[number + 1 :]]
        assert "workshop_prefix" in workshop.workshop_clashes(CLASS, ["", ""], slurm)[0]


def test_who_goes_are_the_last_ones_or_all_and_nobody_who_was_only_put_into_the_group():
    group = GROUP.replace("class03", "class03,ada,class1,class0001")
    going = {"name": "class03", "uid": 20003, "state": "absent"}
    assert workshop.workshop_leaving(CLASS | {"students": 2}, ["", group]) == [going]
    assert workshop.workshop_leaving(CLASS, ["", group]) == []
    everyone = workshop.workshop_leaving(ENDED, ["", group])
    assert [entry["name"] for entry in everyone] == ["class01", "class02", "class03"]
    assert workshop.workshop_leaving(ENDED, ["", ""]) == []


@pytest.mark.parametrize(("offset", "day"), [("+0000", "13"), ("+0100", "13"), ("-0600", "14")])
def test_an_account_is_open_to_the_end_of_the_last_day_where_the_cluster_is(tmp_path, offset, day):
    (tmp_path / "class01.pub").write_text("ssh-ed25519 AAAA class01\n")
    [account] = workshop.workshop_accounts(CLASS | {"students": 1}, offset, str(tmp_path))
    assert account == {
        "name": "class01",
        "uid": 20001,
        "groups": ["class"],
        "expires": f"2027-02-{day}",
        "ssh_keys": ["ssh-ed25519 AAAA class01"],
    }


def commands(change, slurm):
    return [" ".join(command) for command in workshop.workshop_commands(CLASS | change, "rack", slurm)]


def test_a_class_that_slurm_knows_as_it_should_be_takes_no_command():
    assert commands({}, SLURM) == []
    assert commands({"students": 2}, SLURM) == [], "who leaves is taken out before"
    assert commands({"state": "absent"}, NOTHING) == []


def test_a_new_class_gets_its_limits_students_and_nodes():
    qos = (
        "sacctmgr --immediate add qos class MaxJobsPU=2 MaxSubmitJobsPU=20 MaxTRESPU=gres/gpu=2 "
        "MaxWall=1-01:00:00 Flags=DenyOnLimit,OverPartQOS"
    )
    create = (
        "scontrol create reservation reservationname=class accounts=class starttime=now NodeCnt=2 "
        "EndTime=2027-02-13T00:00:00"
    )
    assert commands({"max_minutes": 1500}, NOTHING) == [
        qos,
        "sacctmgr --immediate add account class cluster=rack qos=class defaultqos=class",
        "sacctmgr --immediate add user class01,class02,class03 cluster=rack account=class",
        f"sh -c {create} || {create} flags=ignore_jobs",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_jobs": 1}, r"sacctmgr --immediate modify qos class set MaxJobsPU=1 MaxSubmitJobsPU=20 .*"),
        ({"students": 5}, r"sacctmgr --immediate add user class04,class05 cluster=rack account=class"),
        ({"nodes": 3}, r"scontrol update reservationname=class NodeCnt=3"),
        ({"ends": "2027-02-13"}, r"scontrol update reservationname=class EndTime=2027-02-14T00:00:00"),
        ({"hours": 30}, r"scontrol update reservationname=class Duration=1-06:00:00"),
    ],
)
def test_a_change_takes_the_one_command_that_it_needs(change, expected):
    [command] = commands(change, SLURM)
    assert re.fullmatch(expected, command)


def test_an_ended_class_leaves_slurm_in_the_order_that_slurm_allows():
    assert commands({"state": "absent"}, SLURM) == [
        "scontrol delete reservationname=class",
        "sacctmgr --immediate delete account class",
        "sacctmgr --immediate delete qos class",
    ]


def directives(name):
    """Job scripts, with the values of their #SBATCH --name."""
    scripts = [*(ROOT / "jobs").glob("*.sh"), *(ROOT / "jobs" / "sweeps").glob("*.sh")]
    found = {path.name: re.findall(rf"(?m)^#SBATCH --{name}=(\S+)", path.read_text()) for path in scripts}
    return {path: value for path, values in found.items() for value in values}


def test_a_student_may_submit_every_job_script_as_it_stands():
    times = {name: value.split(":") for name, value in directives("time").items()}
    assert times
    minutes = {name: int(h) * 60 + int(m) for name, (h, m, _) in times.items()}
    assert {name for name, value in minutes.items() if value > DEFAULTS["workshop_max_minutes"]} == set()
    tasks = {name: int(re.match(r"0-(\d+)", value)[1]) + 1 for name, value in directives("array").items()}
    # and the job that collects their results
    assert {name for name, count in tasks.items() if count + 1 > DEFAULTS["workshop_max_submit"]} == set()


def test_a_host_that_is_not_the_controller_gives_slurm_no_commands():
    for options in (CLASS, ENDED):
        assert workshop.workshop_commands(options, "rack", []) == []
