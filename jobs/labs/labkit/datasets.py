"""Data sets as arrays. They are read where they were staged; nothing is downloaded here."""

import gzip
import os
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


@dataclass(frozen=True)
class Digits:
    """Images as rows of pixels (n, 784), which the notebooks divide by 255, and labels (n,)."""

    name: str
    description: str
    train: tuple[Bytes, Bytes]
    validation: tuple[Bytes, Bytes]
    test: tuple[Bytes, Bytes]


def flat(directory: Path | None) -> Digits:
    """The same images, flat; of the training images the first part is for validation.

    Of MNIST's 60,000 that is 5,000, as `input_data.read_data_sets` of TensorFlow 1 had it.

    Raises:
        LabError: as `handwritten`.
    """
    data = handwritten(directory)
    held = len(data.train[1]) // 12

    def rows(part: tuple[Bytes, Bytes], cut: slice) -> tuple[Bytes, Bytes]:
        return part[0][cut].reshape(len(part[0][cut]), -1), part[1][cut]

    train, validation = rows(data.train, slice(held, None)), rows(data.train, slice(held))
    return Digits(data.name, data.description, train, validation, rows(data.test, slice(None)))


# x and y of the notebook's 17 points (TensorFlow-Examples, linear_regression)
POINTS = np.array(
    [
        (3.3, 1.7), (4.4, 2.76), (5.5, 2.09), (6.71, 3.19), (6.93, 1.694), (4.168, 1.573), (9.779, 3.366),
        (6.182, 2.596), (7.59, 2.53), (2.167, 1.221), (7.042, 2.827), (10.791, 3.465), (5.313, 1.65),
        (7.997, 2.904), (5.654, 2.42), (9.27, 2.94), (3.1, 1.3),
    ]
).T  # fmt: skip


def handwritten(directory: Path | None) -> Images:
    """MNIST (60,000 + 10,000 images) from *directory*/mnist, or the digits of scikit-learn without it.

    Raises:
        LabError: a file of MNIST is missing or damaged, or all are, and the directory is not the usual one.
    """
    files = directory / "mnist" if directory else Path("mnist")
    if not list(files.glob("*-ubyte.gz")):
        if directory and str(directory) != os.environ.get("MINSKY_DATA_DIR"):
            raise LabError(
                f"{directory} has no mnist/ with its files: name the directory that holds mnist/, or leave "
                "--data-dir away, for scikit-learn's digits where the usual one has none either"
            )
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
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - half a second that MNIST does not need
    except ModuleNotFoundError:
        raise LabError(
            "there is no mnist/ in the data directory, and no scikit-learn here, whose digits would do: "
            "stage MNIST (python -m minsky.data fetch mnist --to DIRECTORY), then --data-dir DIRECTORY",
        ) from None

    bunch: Any = load_digits()
    images = np.kron(bunch.images * 255 / 16, np.ones((1, 3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    labels = bunch.target.astype(np.uint8)
    test = np.arange(len(labels)) % 5 == 0
    description = "scikit-learn's digits, scaled to 28 x 28 (no mnist/ in the data directory)"
    return Images("digits", description, (images[~test], labels[~test]), (images[test], labels[test]))


FIELD = 40  # pixels of a side


def scattered(images: Bytes, random: np.random.Generator, scraps: int = 4) -> Bytes:
    """Put each of *images* (n, 28, 28, 1) somewhere in a field (n, 40, 40, 1), among scraps of others.

    As cluttered MNIST (Mnih et al., "Recurrent Models of Visual Attention", arXiv:1406.6247), but smaller: a
    scrap is 8 x 8 pixels of another image. A network must look for strokes wherever they are.
    """
    fields = np.zeros((len(images), FIELD, FIELD, 1), np.uint8)

    def put(field: Bytes, piece: Bytes) -> None:
        top, left = random.integers(0, FIELD - len(piece) + 1, 2)
        place = field[top : top + len(piece), left : left + len(piece)]
        np.maximum(place, piece, out=place)

    for field, image in zip(fields, images, strict=True):
        for other, top, left in zip(
            random.integers(0, len(images), scraps), *random.integers(0, 21, (2, scraps)), strict=True
        ):
            put(field, images[other, top : top + 8, left : left + 8])
        put(field, image)
    return fields
