"""Caffe's binary files, read and written: weights (.caffemodel) and means (.binaryproto).

They are protocol buffers, of which little is needed: a message is a row of fields, each a varint of
number * 8 + kind and then a value of that kind. Numbers of fields: BVLC/caffe, src/caffe/proto/caffe.proto.
NumPy looks at values where they lie: reading 244 MB takes no longer than fetching them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labs.labkit import LabError

Array = npt.NDArray[np.float32]
Blobs = dict[str, list[Array]]  # arrays of each layer, in the order of the file: weights, biases

LAYERS = {2: (4, 6), 100: (1, 7)}  # field of a layer, old and current: those of its name and of its blobs
VARINT, BYTES = 0, 2  # kinds
FIXED = {1: 8, 5: 4}  # other kinds and their bytes
LEGACY, FLOATS, SHAPE, DOUBLES = (1, 2, 3, 4), 5, 7, 8  # fields of a blob; LEGACY: number, channels, ...


class _DamagedError(Exception):
    """What is wrong with a message."""


# --- Reading -----------------------------------------------------------------------------------------------


def read_model(file: Path, sha1: str = "") -> Blobs:
    """Blobs of all layers in *file*; a layer without any is there with none.

    Raises:
        LabError: the file cannot be read, is damaged, or has not the checksum *sha1*.
    """
    content = _content(file)
    found = hashlib.sha1(content).hexdigest()  # noqa: S324 - what Caffe's model zoo publishes
    if sha1 and found != sha1:
        raise LabError(
            f"{file} has the sha1 {found}, expected was {sha1}: fetch it again; if it is another model with "
            f"CaffeNet's layers, say so with --sha1 {found}",
        )
    try:
        blobs = dict(_layers(memoryview(content)))
    except _DamagedError as error:
        raise LabError(f"{file} is no whole .caffemodel ({error}): fetch it again") from None
    if not blobs:
        raise LabError(f"{file} has no layers: it is no .caffemodel")
    return blobs


def read_mean(file: Path) -> Array:
    """Mean of each channel, (3,), blue first, from a .binaryproto, or from an array (3, ...) in a .npy.

    Raises:
        LabError: the file cannot be read, is damaged, or has another number of channels.
    """
    try:
        whole = np.load(file) if file.suffix == ".npy" else _blob(memoryview(_content(file)))
        mean = np.asarray(whole, np.float32)
    except (_DamagedError, OSError, TypeError, ValueError) as error:
        raise LabError(f"{file} is no mean of images, in .binaryproto or .npy ({error})") from error
    mean = mean[0] if mean.shape[:1] == (1,) else mean  # of one image
    if mean.shape[:1] != (3,) or not mean.size:
        raise LabError(f"{file} holds an array of {by(mean.shape)}, not the mean of images of 3 channels")
    channels: Array = mean.reshape(3, -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    return channels


def by(shape: tuple[int, ...]) -> str:
    """Return *shape* in words: 96 x 3 x 11 x 11."""
    return " x ".join(map(str, shape)) or "no dimension"


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise LabError(f"{file} cannot be read ({error.strerror})") from error


def _layers(message: memoryview) -> Iterator[tuple[str, list[Array]]]:
    for number, layer in _fields(message):
        if number in LAYERS:
            naming, holding = LAYERS[number]
            inside = list(_fields(_message(layer)))
            names = [bytes(_message(value)).decode(errors="replace") for n, value in inside if n == naming]
            yield "".join(names[-1:]), [_blob(_message(value)) for n, value in inside if n == holding]


def _blob(message: memoryview) -> Array:
    """Return the array of a BlobProto; its shape is a list, or number, channels, height and width."""
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    values: dict[int, list[memoryview]] = {FLOATS: [], DOUBLES: []}
    for number, value in _fields(message):
        if number in LEGACY and isinstance(value, int):
            legacy[number] = value
        elif number == SHAPE:
            shape = [size for n, dims in _fields(_message(value)) if n == 1 for size in _varints(dims)]
        elif number in values:
            values[number].append(_message(value))  # many of 4 or 8 bytes, or one of all
    kind, bytes_ = (DOUBLES, 8) if values[DOUBLES] else (FLOATS, 4)
    raw = values[kind][0] if len(values[kind]) == 1 else b"".join(values[kind])
    if len(raw) % bytes_:
        raise _DamagedError(f"{len(raw)} bytes are no array of numbers")
    array = np.frombuffer(raw, f"<f{bytes_}")
    sizes = shape if shape is not None else [legacy.get(number, 0) for number in LEGACY]
    if array.size != np.prod(sizes, dtype=object):
        raise _DamagedError(f"{array.size} values in an array of {by(tuple(sizes))}")
    return array.astype(np.float32, copy=False).reshape(sizes)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: a whole number, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = divmod(key, 8)
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in FIXED:
            size = FIXED[kind]
        else:
            raise _DamagedError("it is no protocol buffer")
        if at + size > len(message):
            raise _DamagedError(f"{at + size - len(message):,} bytes are missing")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Whole number at *at*, in groups of 7 bits, the lowest first, and the place behind it."""
    value = 0
    for place in range(at, min(at + 10, len(message))):
        value |= (message[place] & 127) << 7 * (place - at)
        if message[place] < 128:  # noqa: PLR2004 - the highest bit says that more follows
            return value, place + 1
    raise _DamagedError("a number is cut off")


def _varints(value: int | memoryview) -> Iterator[int]:
    """One number, or all of a packed field."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _DamagedError("a number where a message should be")
    return value


# --- Writing -----------------------------------------------------------------------------------------------


def model(blobs: Mapping[str, list[Array]]) -> bytes:
    """Return *blobs* as Caffe writes them today."""
    return b"".join(
        field(100, field(1, name.encode()) + b"".join(field(7, blob(array)) for array in arrays))
        for name, arrays in blobs.items()
    )


def blob(array: Array) -> bytes:
    """Return *array* as a BlobProto, and so as a .binaryproto."""
    dims = b"".join(map(varint, array.shape))
    return field(SHAPE, field(1, dims)) + field(FLOATS, array.astype("<f4").tobytes())


def field(number: int, value: bytes) -> bytes:
    """Return a field of a message that holds *value*."""
    return varint(8 * number + BYTES) + varint(len(value)) + value


def varint(number: int) -> bytes:
    """Return *number* in groups of 7 bits, the lowest first."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])
