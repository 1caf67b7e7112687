"""What may be staged."""

import pytest

import staging
from minsky.images import recipes, sif


@pytest.mark.parametrize("layers", [(), ("jupyter",), ("jupyter", "opencv")])
def test_a_sif_is_staged_under_the_name_that_convert_gives_it(layers):
    wanted = recipes.image("lab", "x86_64-cpu").with_layers(*layers)
    name = f"{sif._stem(wanted)}-0123456789ab.sif"
    assert staging.image_link(name) == f"{sif._stem(wanted)}.sif"
