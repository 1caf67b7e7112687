"""Templates of the playbooks, rendered with undefined names fatal and compared whole with golden files."""

from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "playbooks"
CASES = {
    "roles/fs_gluster/templates/retry.service.j2": {"filesystem": {"mount": "/shared", "name": "shared"}},
    "roles/staging/templates/profile.sh.j2": {"cluster_shared": "/shared"},
    "virtual/hosts.yml.j2": {
        "virtual_nodes": "2",
        "virtual_node_memory_mb": "6000",
        "virtual_network_prefix": "172.31.240",
        "virtual_state": "/checkout/.minsky",
        "virtual_bricks": ["control", "node1", "node2"],
    },
}


@pytest.mark.parametrize("template", CASES)
def test_a_template_renders_to_its_golden_file(template):
    # as Ansible does
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(ROOT / "playbooks"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(CASES[template])
    golden = GOLDEN / template.replace("/", "__").removesuffix(".j2")
    assert golden.exists(), f"no golden file; after reading it, keep this as {golden}:\n{text}"
    assert text == golden.read_text()


def test_every_template_of_these_playbooks_has_a_case():
    # slurm/ and the roles that use it are covered by test_slurm*
    there = {str(path.relative_to(ROOT / "playbooks")) for path in (ROOT / "playbooks").rglob("*.j2")}
    elsewhere = {name for name in there if name.split("/")[1] in {"slurm", "slurmdbd", "mariadb", "munge"}}
    assert there - elsewhere == set(CASES)
