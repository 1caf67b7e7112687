"""Data sets as arrays. They are read where they were staged; nothing is downloaded here."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labs.labkit import LabError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """Images of one channel: images (n, 28, 28, 1) from 0 to 255, labels (n,) from 0 to 9."""

    name: str
    description: str
    train: tuple[Bytes, Bytes]
    test: tuple[Bytes, Bytes]


def handwritten(directory: Path | None) -> Images:
    """MNIST (60,000 + 10,000 images) from *directory*/mnist, or the digits of scikit-learn without it.

    Raises:
        LabError: a file of MNIST is missing or damaged.
    """
    files = directory / "mnist" if directory else Path("mnist")
    if not list(files.glob("*-ubyte.gz")):
        return digits()

    def pair(prefix: str, count: int) -> tuple[Bytes, Bytes]:
        images = read_idx(files / f"{prefix}-images-idx3-ubyte.gz", (count, 28, 28))
        return images[..., None], read_idx(files / f"{prefix}-labels-idx1-ubyte.gz", (count,))

    return Images("mnist", "MNIST", pair("train", 60_000), pair("t10k", 10_000))


def read_idx(file: Path, shape: tuple[int, ...]) -> Bytes:
    """Read a gzipped IDX file of bytes that must have *shape*.

    Format: two zero bytes, type 8 (unsigned byte), number of dimensions, each dimension in four bytes,
    data (LeCun, Cortes, Burges, "The MNIST database").

    Raises:
        LabError: the file is missing, damaged, or holds something else.
    """
    mend = (
        "have it staged again: on a cluster, ask whoever runs it to run playbooks/site.yml; on a laptop: "
        f"python -m minsky.data fetch {file.parent.name} --to {file.parent.parent} in a checkout"
    )
    try:
        raw = gzip.decompress(file.read_bytes())
    except FileNotFoundError:
        raise LabError(f"{file} is missing, though its neighbours are there; {mend}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"{file} cannot be read ({error}); {mend}") from error
    header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    if raw[: len(header)] != header or len(raw) != len(header) + int(np.prod(shape)):
        size = " x ".join(map(str, shape))
        raise LabError(f"{file} is damaged: it should hold {size} bytes behind an IDX header; {mend}")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def digits() -> Images:
    """Return the 1,797 digits of 8 x 8 pixels that scikit-learn carries, scaled to MNIST's 28 x 28.

    Each pixel becomes 3 x 3, with a border of 2; every fifth image is for the test (source: UCI,
    "Optical recognition of handwritten digits").
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - half a second that MNIST does not need

    bunch: Any = load_digits()
    images = np.kron(bunch.images * 255 / 16, np.ones((1, 3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    labels = bunch.target.astype(np.uint8)
    test = np.arange(len(labels)) % 5 == 0
    description = "scikit-learn's digits, scaled to 28 x 28 (no mnist/ in the data directory)"
    return Images("digits", description, (images[~test], labels[~test]), (images[test], labels[test]))
