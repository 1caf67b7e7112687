"""What several tests of images look with."""

import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

import pytest

from minsky.images import build
from minsky.images.engine import docker
from minsky.images.recipes import image
from minsky.paths import ROOT


@dataclass(frozen=True)
class Ran:
    """What a program in the lab image did."""

    status: int
    said: str

    @property
    def result(self) -> dict[str, Any]:
        lines = re.findall(r"(?m)^RESULT (\{.*\})$", self.said)
        assert self.status == 0, self.said
        assert lines, self.said
        return json.loads(lines[-1])


@dataclass(frozen=True)
class Lab:
    """The lab image, as a user without Slurm has it: the jobs and the data bound in, no network."""

    tag: str

    def start(self, script: str, *, tmpfs: str = "", more: dict[str, str] | None = None) -> Any:
        """Start a few lines of bash; the container. *more*: of its environment."""
        data = os.environ.get("MINSKY_DATA", "")
        container = docker().containers.create(
            self.tag,
            ["bash", "-euc", script],
            environment={
                "PYTHONPATH": "/jobs",
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
                "OMPI_MCA_mpi_yield_when_idle": "1",
                "HOROVOD_CYCLE_TIME": "0.3",
                "MINSKY_DATA_DIR": "/data",
                **(more or {}),
            },
            volumes={str(ROOT / "jobs"): {"bind": "/jobs", "mode": "ro"}}
            | ({data: {"bind": "/data", "mode": "ro"}} if data and Path(data).is_dir() else {}),
            tmpfs={"/small": f"size={tmpfs},mode=1777"} if tmpfs else {},
            network_mode="none",
            working_dir="/tmp",
            labels={"minsky": "1"},
            shm_size="256m",
        )
        container.start()
        return container

    def run(self, script: str, **settings: Any) -> Ran:
        """Run a few lines of bash to their end."""
        container = self.start(script, **settings)
        try:
            return Ran(container.wait()["StatusCode"], container.logs().decode())
        finally:
            container.remove(force=True)

    def program(self, *words: str, ranks: int = 1) -> Ran:
        """Run `python -m` *words* on some ranks."""
        launch = ["mpirun", "-n", str(ranks), "--oversubscribe"] if ranks > 1 else []
        return self.run(join([*launch, "python", "-m", *words]))


@pytest.fixture(scope="session")
def staged():
    """MNIST, where MINSKY_DATA says."""
    if not Path(os.environ.get("MINSKY_DATA", "none"), "mnist").is_dir():
        pytest.skip("what the labs reach is told of MNIST: set MINSKY_DATA to a directory that holds mnist/")


@pytest.fixture(scope="session")
def lab_of():
    """An image of the lab by its target and optional layers; built and tested where it is not there."""
    return lambda target, *layers: Lab(build.ensure(image("lab", target).with_layers(*layers)))


@pytest.fixture(scope="session")
def lab(lab_of):
    """The first leg."""
    return lab_of("x86_64-cpu")


@pytest.fixture
def in_layers(tmp_path):
    """The content of each regular file of each layer of an image, not of their sum: (path, bytes)."""

    def look(tag):
        saved = tmp_path / "image.tar"
        with saved.open("wb") as file:
            for chunk in docker().images.get(tag).save(chunk_size=8 << 20):
                file.write(chunk)
        with tarfile.open(saved) as archive:
            layers = [name for name in archive.getnames() if name.endswith("layer.tar")]
            assert layers
            for name in layers:
                with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                    for member in layer:
                        if member.isfile():
                            yield member.name, layer.extractfile(member).read()
        saved.unlink()

    return look
