"""What may be staged."""

import sys
from pathlib import Path

import pytest

from minsky.images import recipes, sif

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "playbooks" / "filter_plugins"))

import staging


@pytest.mark.parametrize("layers", [(), ("jupyter",), ("jupyter", "opencv")])
def test_a_sif_is_staged_under_the_name_that_convert_gives_it(layers):
    wanted = recipes.image("lab", "x86_64-cpu").with_layers(*layers)
    name = f"{sif._stem(wanted)}-0123456789ab.sif"
    assert staging.image_link(name) == f"{sif._stem(wanted)}.sif"
