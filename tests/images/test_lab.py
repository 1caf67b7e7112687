"""The lab image for x86_64, and its second leg with Keras 2: what only a look from outside shows."""

import re

import pytest

from minsky.images import build
from minsky.images.engine import docker
from minsky.images.recipes import CA_BUNDLE, image
from minsky.paths import ROOT

LEGS = ["x86_64-cpu", "x86_64-cpu-keras2"]
LARGEST_GB = 1.6


@pytest.fixture(scope="module", params=LEGS)
def tag(request):
    """Built and tested where it is not there; test_sif.py runs its test again in the first leg's SIF."""
    return build.ensure(image("lab", request.param))


def test_two_ranks_reach_the_labs_goal(tag):
    """The lab as a user has it, on the digits that scikit-learn brings; its status says so."""
    container = docker().containers.create(
        tag,
        ["mpirun", "-n", "2", "--oversubscribe", "python", "-m", "labs.cnn"],
        environment={
            "PYTHONPATH": "/jobs",
            "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
            "MINSKY_DATA_DIR": "/none",
            "OMP_NUM_THREADS": "1",
        },
        volumes={str(ROOT / "jobs"): {"bind": "/jobs", "mode": "ro"}},
        working_dir="/tmp",
        labels={"minsky": "1"},
        shm_size="256m",
    )
    try:
        container.start()
        status, said = container.wait()["StatusCode"], container.logs().decode()
    finally:
        container.remove(force=True)
    assert status == 0, said
    assert re.search(r'RESULT \{.*"lab": "cnn".*"ranks": 2', said), said


def test_nobody_is_root_in_it_by_default_and_it_is_as_small_as_promised(tag):
    attributes = docker().images.get(tag).attrs
    assert attributes["Config"]["User"] == "lab"
    assert attributes["Size"] <= LARGEST_GB * 1e9


def test_the_hosts_certificates_stay_in_no_layer(tag, in_layers):
    ours = build._ca_bundle().read_bytes()
    assert [path for path, data in in_layers(tag) if path.endswith(f"/{CA_BUNDLE}") or data == ours] == []
