"""Templates of the playbooks, rendered with undefined names fatal and compared whole with golden files."""

from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
GOLDEN = Path(__file__).parent / "golden" / "playbooks"
TEMPLATES = sorted(str(path.relative_to(PLAYBOOKS)) for path in PLAYBOOKS.rglob("*.j2"))
# What any of them may print; slurm/*.j2 are rendered in test_slurm.
VALUES = {
    "apptainer_suite": "sid",
    "cluster_filesystems": [{"mount": "/shared"}],
    "cluster_shared": "/shared",
    "filesystem": {"mount": "/shared", "name": "shared"},
    "mariadb_buffer_pool_mb": 256,
    "node_base_memlock": "unlimited",
    "node_base_proxy": "http://proxy.site:3128",
    "virtual_bricks": ["control", "node1", "node2"],
    "virtual_jobs_memory_mb": 4500,
    "virtual_machines": [
        {"name": name, "address": f"172.31.240.{number}"}
        for number, name in enumerate(["control", "node1", "node2"], 10)
    ],
    "virtual_state": "/checkout/.minsky",
    "workshop_prefix": "class",
    "__apptainer_mirrors": {"stdout_lines": ["http://mirror.site/debian"]},
    "_node_base_hosts": ["192.0.2.10 head.site head", "192.0.2.21 node1"],
    "_slurm_controller": "control",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_renders_to_its_golden_file(template):
    # as Ansible does
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(PLAYBOOKS),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(VALUES)
    golden = GOLDEN / template.replace("/", "__").removesuffix(".j2")
    assert golden.exists(), f"no golden file; after reading it, keep this as {golden}:\n{text}"
    assert text == golden.read_text()


def test_every_golden_file_has_its_template():
    rendered = {template.replace("/", "__").removesuffix(".j2") for template in TEMPLATES}
    assert {path.name for path in GOLDEN.iterdir()} == rendered
