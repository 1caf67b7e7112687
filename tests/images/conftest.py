"""What several tests of images look with."""

import tarfile

import pytest

from minsky.images.engine import docker


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
