"""Contracts that every role keeps."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from validate import refusals

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted((ROOT / "playbooks" / "roles").iterdir())


def options(role: Path) -> dict:
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    return specs["argument_specs"]["main"].get("options", {})


def defaults(role: Path) -> dict:
    return yaml.safe_load((role / "defaults" / "main.yml").read_text()) or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_says_what_it_is_and_declares_its_options_once(role):
    assert (role / "README.md").read_text().startswith(f"# {role.name}\n")
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(defaults(role)) | required == set(options(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_is_of_the_type_that_the_role_declares(role):
    plain = {name: value for name, value in defaults(role).items() if "{{" not in str(value)}
    assert refusals({"host": plain}, ["host"], str(role.parent)) == []
    # what ArgumentSpecValidator would turn into text: YAML has read 1:30:00 as 5400
    texts = {name for name, option in options(role).items() if option["type"] == "str"}
    assert {name: plain[name] for name in texts & plain.keys() if not isinstance(plain[name], str)} == {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_option_is_read_by_something_beside_its_declaration(role):
    declared = {role / "defaults" / "main.yml", role / "meta" / "argument_specs.yml"}
    files = [*(ROOT / "playbooks").rglob("*.*"), *(ROOT / "slurm").glob("*.j2")]
    kinds = {".yml", ".j2", ".py"}
    text = "\n".join(
        path.read_text() for path in files if path.suffix in kinds and path not in declared
        and "inventory" not in path.parts
    )  # fmt: skip
    assert [name for name in options(role) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_has_the_clusters_variables_by_depending_on_their_role(role):
    meta = role / "meta" / "main.yml"
    depends = yaml.safe_load(meta.read_text())["dependencies"] if meta.exists() else []
    assert depends == ([] if role.name == "cluster" else [{"role": "cluster"}])


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_option_says_what_it_sets_and_what_changing_it_does(role):
    text = (role / "defaults" / "main.yml").read_text()
    for paragraph in text.replace("---\n", "").strip().split("\n\n"):
        if not any(line and line[0] not in "# -" for line in paragraph.splitlines()):
            continue
        comment = "\n".join(line for line in paragraph.splitlines() if line.startswith("#"))
        assert "Sets:" in comment, f"no 'Sets:' above\n{paragraph}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_names_begin_with_the_role_so_that_a_misspelt_one_can_be_refused(role):
    assert [name for name in defaults(role) if not name.startswith(f"{role.name}_")] == []


def test_no_role_takes_another_ones_prefix():
    names = [role.name for role in ROLES]
    assert [(a, b) for a in names for b in names if b.startswith(f"{a}_")] == []


def test_a_playbook_runs_every_role():
    plays = [play for path in (ROOT / "playbooks").glob("*.yml") for play in yaml.safe_load(path.read_text())]
    run = {role for play in plays for role in play.get("roles", [])}
    by_type = {role.name for role in ROLES if role.name.startswith("fs_")}
    assert run | by_type | {"cluster"} == {role.name for role in ROLES}, "cluster changes nothing"


def test_what_shapes_a_roles_data_bears_its_name():
    plugins = {path.stem for path in (ROOT / "playbooks" / "filter_plugins").glob("*.py")}
    assert plugins - {role.name for role in ROLES} == {"validate"}, "it alone is for all roles"


def test_nodes_and_the_image_that_makes_sifs_have_apptainer_from_one_suite():
    image = tomllib.loads((ROOT / "images" / "versions.toml").read_text())["image"]["apptainer"]
    pinned = {name: pins[0] for name, pins in image["debian"].items()}
    options = defaults(ROOT / "playbooks" / "roles" / "apptainer")
    stated = {"suite": options["apptainer_suite"], "least": options["apptainer_least_version"]}
    assert stated.items() <= pinned["apptainer"].items()


FILE_SYSTEMS = [role for role in ROLES if role.name.startswith("fs_")]


@pytest.mark.parametrize("role", FILE_SYSTEMS, ids=lambda role: role.name)
def test_a_file_system_says_as_what_it_is_mounted(role):
    assert yaml.safe_load((role / "vars" / "main.yml").read_text())[f"_{role.name}_mounted_as"]
