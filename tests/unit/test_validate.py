"""What playbooks/validate.yml refuses, and in which words."""

import sys
from pathlib import Path

import pytest

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
sys.path.insert(0, str(PLAYBOOKS / "filter_plugins"))

from validate import account_refusals, declared, filesystem_refusals, refusals  # noqa: E402

ROLES = str(PLAYBOOKS / "roles")
SHARED = {"name": "shared", "type": "gluster", "mount": "/shared", "servers": ["a"]}


def test_every_roles_options_are_read_from_its_own_file():
    roles = declared(ROLES)
    assert {path.name for path in Path(ROLES).iterdir()} == set(roles)
    assert "node_base_timezone" in roles["node_base"]


def test_right_values_are_accepted():
    assert refusals({"a": {"node_base_timezone": "Europe/Berlin", "other": 1}}, ["a"], ROLES) == []


def test_null_means_not_set():
    assert refusals({"a": {"node_base_memlock": None}}, ["a"], ROLES) == []


def test_a_misspelt_name_is_answered_with_the_near_one_and_all_there_are():
    said = refusals({"a": {"node_base_timezne": "x"}, "b": {"node_base_timezne": "x"}}, ["a", "b"], ROLES)
    assert len(said) == 1
    assert "Did you mean node_base_timezone?" in said[0]
    assert "node_base_packages" in said[0]
    assert said[0].endswith("(a, b)")


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"node_base_hosts_manage": "perhaps"}, "perhaps"),
        ({"users_accounts": [{"name": "x"}]}, "uid"),
        ({"users_accounts": [{"name": "x", "uid": 1001, "state": "gone"}]}, "absent"),
        ({"users_accounts": [{"name": "x", "uid": 1001, "colour": "red"}]}, "colour"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(variables, word):
    said = refusals({"a": variables}, ["a"], ROLES)
    assert said
    assert word in said[0]


def test_no_file_system_at_all_is_answered_with_an_example():
    assert "type: gluster" in filesystem_refusals([], ["a"], ROLES)[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"type": "lustr"}, "Types are: gluster"),
        ({"mount": "shared"}, "absolute path"),
        ({"servers": ["elsewhere"]}, "elsewhere"),
    ],
)
def test_a_file_system_that_cannot_be_is_refused(change, word):
    said = filesystem_refusals([SHARED | change], ["a"], ROLES)
    assert len(said) == 1
    assert word in said[0]


def test_two_file_systems_cannot_share_a_mount():
    said = filesystem_refusals([SHARED, SHARED | {"name": "scratch"}], ["a"], ROLES)
    assert said == ["Two file systems have the mount '/shared'. Give each its own."]


def test_accounts_have_a_name_and_number_of_their_own_outside_the_systems():
    said = account_refusals(
        [{"name": "x", "uid": 2001}, {"name": "x", "uid": 2001}, {"name": "y", "uid": 33}]
    )
    assert len(said) == 3
    assert account_refusals([{"name": "x", "uid": 2001}, {"name": "y", "uid": 2002}]) == []
