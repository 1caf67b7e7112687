"""What playbooks/validate.yml refuses, and in which words."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster import class_refusals, filesystem_refusals
from minsky.gpus.classes import available, load
from minsky.playbook import ansible_environment, failure
from node_base import hosts_lines, node_base_refusals
from staging import image_link, staging_refusals
from users import account_refusals
from validate import declared, refusals

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
ROLES = str(PLAYBOOKS / "roles")
EXAMPLES = sorted((PLAYBOOKS / "inventory").glob("example-*"))
PINS = str(ROOT / "images" / "versions.toml")
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
    ("name", "meant"),
    [
        ("user_accounts", "users_accounts"),
        ("slurmdb_purge_months", "slurmdbd_purge_months"),
        ("nodebase_timezone", "node_base_timezone"),
    ],
)
def test_a_name_that_no_role_begins_is_refused_where_it_is_nearly_an_options(name, meant):
    said = refusals({"a": {name: 1}}, ["a"], ROLES)
    assert len(said) == 1
    assert f"Did you mean {meant}?" in said[0]


def test_variables_of_the_sites_own_are_let_alone():
    own = ["ansible_host", "groups", "group_names", "inventory_hostname", "filesystems", "rack", "gpu_count"]
    assert refusals({"a": dict.fromkeys(own, 1)}, ["a"], ROLES) == []


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"node_base_hosts_manage": "perhaps"}, "perhaps"),
        ({"users_accounts": [{"name": "x"}]}, "uid"),
        ({"users_accounts": [{"name": "x", "uid": 1001, "state": "gone"}]}, "absent"),
        ({"users_accounts": [{"name": "x", "uid": 1001, "colour": "red"}]}, "colour"),
        ({"cluster_filesystems": "shared"}, "cluster_filesystems is 'shared', but role cluster takes a list"),
        ({"cluster_filesystems": ["shared"]}, "cluster_filesystems is ['shared'], which role cluster"),
        ({"staging_images": "/a.sif"}, "-e '{\"staging_images\": [...]}'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(variables, word):
    said = refusals({"a": variables}, ["a"], ROLES)
    assert len(said) == 1
    assert word in said[0]


@pytest.mark.parametrize("given", [[], "shared", ["shared"], {"name": "shared"}, [SHARED | {"servers": "a"}]])
def test_no_file_system_or_one_that_is_none_is_answered_with_an_example(given):
    said = filesystem_refusals(given, ["a"], ROLES)
    assert len(said) == 1
    assert "type: gluster" in said[0]


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


def test_a_node_class_that_there_is_not_is_answered_with_those_there_are_and_how_to_make_one():
    hosts = {"a": {"cluster_node_class": "minsky-p10"}, "b": {"cluster_node_class": "minsky-p10"}, "c": {}}
    assert class_refusals(["c"], hosts) == []
    assert class_refusals(["d"], {"d": {"cluster_node_class": "minsky-p100"}}) == []
    [said] = class_refusals(hosts, hosts)
    assert said.startswith(
        "cluster_node_class is minsky-p10 for a, b, and slurm/classes/ holds no such class."
    )
    assert "Did you mean minsky-p100?" in said
    assert "none, ac922-4gpu" in said
    assert "python -m minsky.gpus propose" in said


def test_a_class_that_contradicts_itself_is_refused_in_its_own_words(tmp_path, monkeypatch):
    minsky = (ROOT / "slurm" / "classes" / "minsky-p100.yml").read_text()
    (tmp_path / "mine.yml").write_text(minsky.replace("nvlinks: 4", "nvlinks: 3"))
    monkeypatch.setattr("cluster.available", lambda: available(tmp_path))
    monkeypatch.setattr("cluster.load", lambda name: load(name, tmp_path))
    [said] = class_refusals(["a"], {"a": {"cluster_node_class": "mine"}})
    assert "mine.yml: gpus[0].links: with 2 to the CPU these are 4 NVLinks" in said


def test_two_file_systems_cannot_share_a_mount():
    said = filesystem_refusals([SHARED, SHARED | {"name": "scratch"}], ["a"], ROLES)
    assert said == ["Two file systems have the mount '/shared'. Give each its own."]


def test_accounts_have_a_name_and_number_of_their_own_outside_the_systems():
    said = account_refusals(
        [{"name": "x", "uid": 2001}, {"name": "x", "uid": 2001}, {"name": "y", "uid": 33}]
    )
    assert len(said) == 3
    assert "the system's" in account_refusals([{"name": "root", "uid": 2001}])[0]
    assert account_refusals([{"name": "x", "uid": 2001}, {"name": "y", "uid": 2002}]) == []


def test_an_account_expires_on_a_day():
    account = {"name": "x", "uid": 2001}
    assert account_refusals([account | {"expires": "2027-02-13"}]) == []
    for wrong in ("2027-02-30", "tomorrow", 20270213, None):
        assert "no date" in account_refusals([account | {"expires": wrong}])[0]


@pytest.mark.parametrize("name", ["Ada", "../etc", "a b", ""])
def test_an_account_whose_name_is_none_is_refused(name):
    assert "login name" in account_refusals([{"name": name, "uid": 2001}])[0]


@pytest.mark.parametrize(
    ("file", "link"),
    [
        ("/cache/sif/lab-x86_64-0123456789ab.sif", "lab-x86_64.sif"),
        ("lab-ppc64le-cuda-0123456789ab.sif", "lab-ppc64le-cuda.sif"),
        ("lab-x86_64.sif", ""),
        ("mine.sif", ""),
    ],
)
def test_an_image_is_known_to_jobs_by_the_architecture_and_accelerator_in_its_name(file, link):
    assert image_link(file) == link


def test_images_and_data_that_cannot_be_staged_are_refused(tmp_path, monkeypatch):
    def image(name):
        (tmp_path / name).touch()
        return str(tmp_path / name)

    monkeypatch.chdir(tmp_path)
    power, cuda = image("lab-ppc64le-0123456789ab.sif"), image("lab-ppc64le-cuda-0123456789ab.sif")
    assert staging_refusals([power, cuda], ["mnist"], PINS) == []
    for images, data, words in (
        ([str(tmp_path / "lab-x86_64-0123456789ab.sif")], [], "no absolute path of a file"),
        (["lab-ppc64le-0123456789ab.sif"], [], "no absolute path of a file"),
        ([image("mine.sif")], [], "lab-ARCH-KEY.sif"),
        ([power, image("lab-ppc64le-ba9876543210.sif")], [], "as lab-ppc64le.sif. Keep one"),
        ([], ["mnits"], "mnist"),
    ):
        said = staging_refusals(images, data, PINS)
        assert len(said) == 1
        assert words in said[0]


def test_hosts_are_named_in_full_and_in_short():
    hosts = {"n1.site": {"ansible_host": "192.0.2.1"}, "head": {"ansible_host": "2001:db8::1"}}
    assert hosts_lines(list(hosts), hosts) == ["2001:db8::1 head", "192.0.2.1 n1.site n1"]


RIGHT = {"hosts_manage": True, "timezone": "Europe/Berlin", "proxy": "", "ca_bundle": ""}
FACTS = {
    "ansible_host": "192.0.2.1",
    "ansible_facts": {"distribution": "Debian", "distribution_major_version": "13"},
}


def test_a_machine_and_options_that_node_base_can_serve_are_accepted():
    assert node_base_refusals(["a"], {"a": FACTS}, **RIGHT) == []
    assert node_base_refusals(["a"], {"a": {}}, **RIGHT | {"hosts_manage": False}) == []
    served = {"proxy": "http://proxy.site:3128", "ca_bundle": __file__, "timezone": "Etc/GMT+1"}
    assert node_base_refusals(["a"], {"a": FACTS}, **RIGHT | served) == []


@pytest.mark.parametrize(
    ("host", "option", "words"),
    [
        (
            {"ansible_facts": {"distribution": "Ubuntu", "distribution_major_version": "24"}},
            {},
            "a (Ubuntu 24) cannot",
        ),
        (
            {"ansible_facts": {"distribution": "Debian", "distribution_major_version": "12"}},
            {},
            "a (Debian 12) cannot",
        ),
        ({"ansible_host": "a.site"}, {}, "node_base_hosts_manage: false"),
        ({}, {"timezone": "Europe/Berlni"}, "instance Europe/Berlin"),
        ({}, {"timezone": "../../etc/passwd"}, "no time zone"),
        ({}, {"proxy": "proxy.site:3128"}, "no URL"),
        ({}, {"ca_bundle": "site.pem"}, "no absolute path of a file"),
    ],
)
def test_a_machine_or_option_that_node_base_cannot_serve_is_refused(host, option, words):
    said = node_base_refusals(["a"], {"a": FACTS | host}, **RIGHT | option)
    assert len(said) == 1
    assert words in said[0]


def validate(inventory, *arguments):
    """Run playbooks/validate.yml without reaching a machine."""
    return subprocess.run(
        ["ansible-playbook", "-i", inventory, "playbooks/validate.yml", "--skip-tags", "online", *arguments],
        cwd=ROOT,
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_inventory_is_valid(example):
    run = validate(example)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_what_is_wrong_is_refused_whatever_the_limit(example):
    run = validate(example, "--limit", "slurm_node", "-e", "user_accounts=[]")
    assert run.returncode != 0
    assert "Did you mean users_accounts?" in failure(run.stdout)


def test_a_host_of_an_unknown_class_is_refused_by_the_playbook(tmp_path):
    text = (PLAYBOOKS / "inventory" / "example-mixed" / "hosts.yml").read_text()
    (tmp_path / "hosts.yml").write_text(
        text.replace("cluster_node_class: ac922-4gpu", "cluster_node_class: ac922-4")
    )
    shutil.copytree(PLAYBOOKS / "inventory" / "example-mixed" / "group_vars", tmp_path / "group_vars")
    run = validate(tmp_path)
    assert run.returncode != 0
    said = failure(run.stdout)
    assert "cluster_node_class is ac922-4 for ac922-1" in said
    assert "Did you mean ac922-4gpu?" in said


def test_an_inventory_without_hosts_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {}\n")
    run = validate(tmp_path)
    assert run.returncode != 0
    assert "The inventory has no hosts." in failure(run.stdout)
