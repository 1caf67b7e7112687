"""What may be staged."""

from pathlib import Path

import pytest
import yaml

import staging
from minsky import data
from minsky.images import recipes, sif


@pytest.mark.parametrize("layers", [(), ("jupyter",), ("jupyter", "opencv")])
def test_a_sif_is_staged_under_the_name_that_convert_gives_it(layers):
    wanted = recipes.image("lab", "x86_64-cpu").with_layers(*layers)
    name = f"{sif._stem(wanted)}-0123456789ab.sif"
    assert staging.image_link(name) == f"{sif._stem(wanted)}.sif"


def test_every_data_set_that_is_described_is_staged_unless_a_site_says_otherwise():
    defaults = Path(__file__).parents[2] / "playbooks" / "roles" / "staging" / "defaults" / "main.yml"
    assert set(yaml.safe_load(defaults.read_text())["staging_data"]) == set(data.known())
