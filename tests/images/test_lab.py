"""The lab image for x86_64, and its second leg with Keras 2: what only a look from outside shows."""

import pytest

from minsky.images import build
from minsky.images.engine import docker
from minsky.images.recipes import CA_BUNDLE

LEGS = ["x86_64-cpu", "x86_64-cpu-keras2"]
LARGEST_GB = 1.6


@pytest.fixture(scope="module", params=LEGS)
def leg(request, lab_of):
    """Built and tested where it is not there; with --long test_sif.py runs its test in the SIF, too."""
    return lab_of(request.param)


def test_two_ranks_reach_the_labs_goal(lab_of):
    """The second leg as a user has it, on scikit-learn's digits; the first one's runs on the cluster."""
    ran = lab_of("x86_64-cpu-keras2").run(
        "MINSKY_DATA_DIR=/none mpirun -n 2 --oversubscribe python -m labs.cnn"
    )
    assert (ran.result["lab"], ran.result["ranks"]) == ("cnn", 2)
    assert ran.result["goal"]["reached"]


def test_nobody_is_root_in_it_by_default_and_it_is_as_small_as_promised(leg):
    attributes = docker().images.get(leg.tag).attrs
    assert attributes["Config"]["User"] == "lab"
    assert attributes["Size"] <= LARGEST_GB * 1e9


def test_the_hosts_certificates_stay_in_no_layer(leg, in_layers):
    ours = build._ca_bundle().read_bytes()
    assert [path for path, data in in_layers(leg.tag) if path.endswith(f"/{CA_BUNDLE}") or data == ours] == []
