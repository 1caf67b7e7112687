"""Templates of the playbooks, rendered by Ansible for the example rack, held to golden files."""

import re
from pathlib import Path

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from minsky import virtual

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
GOLDEN = Path(__file__).parent / "golden" / "playbooks"
TEMPLATES = sorted(str(path.relative_to(PLAYBOOKS)) for path in PLAYBOOKS.rglob("*.j2"))


@pytest.fixture(scope="module")
def templar():
    """What any of them may print; slurm/*.j2 are rendered in test_slurm."""
    loader = DataLoader()

    def read(file):
        found = [loader.load_from_file(str(path), trusted_as_template=True) for path in PLAYBOOKS.glob(file)]
        return {name: value for variables in found for name, value in (variables or {}).items()}

    # an option without a default, and what a command says on a machine, are printed as their names
    defaults = {
        name: f"<{name}>" if value == "" else value
        for name, value in read("roles/*/defaults/main.yml").items()
    }
    tasks = "".join(path.read_text() for path in PLAYBOOKS.glob("roles/*/tasks/*.yml"))
    said = {
        name: {"stdout": f"<{name}>", "stdout_lines": [f"<{name}>"]}
        for name in re.findall(r"register: (\w+)", tasks)
    }
    inventory = InventoryManager(loader, [str(PLAYBOOKS / "inventory" / "example-minsky")])
    manager = VariableManager(loader, inventory)
    host = manager.get_vars(host=inventory.get_host("head")) | {
        "hostvars": HostVars(inventory, manager, loader)
    }
    passed = {"filesystem": host["cluster_filesystems"][0]}  # by site.yml
    passed |= virtual.VARIABLES | virtual.layout(2, 32768)
    filter_loader.add_directory(str(PLAYBOOKS / "filter_plugins"))
    return Templar(loader, variables=defaults | host | read("roles/*/vars/main.yml") | said | passed)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_renders_to_its_golden_file(templar, template):
    # undefined names are fatal
    text = templar.template(trust_as_template((PLAYBOOKS / template).read_text()))
    text = text.replace(str(PLAYBOOKS.parent), "/checkout")
    golden = GOLDEN / template.replace("/", "__").removesuffix(".j2")
    assert golden.exists(), f"no golden file; after reading it, keep this as {golden}:\n{text}"
    assert text == golden.read_text()


def test_every_golden_file_has_its_template():
    rendered = {template.replace("/", "__").removesuffix(".j2") for template in TEMPLATES}
    assert {path.name for path in GOLDEN.iterdir()} == rendered
