"""Pictures in directories, a directory for each class, and the same in shards: few files, read in order.

A file system that many nodes share serves few long files faster than thousands of short ones, and ranks that
read different files do not wait for each other. A shard is a TFRecord file of pictures, each a JPEG of
256 x 256, with its class as a number; which there are, and how many pictures are in each, is in shards.json.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import LabError
from labs.labkit.lazy import tf
from labs.labkit.world import World, count

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
FORMATS = "JPEG, PNG, BMP or GIF"
SIDE = 256  # pixels, whatever the picture's sides, as Caffe's convert_imageset makes them for ImageNet
PARTS = ("train", "test")
MANIFEST = "shards.json"


def below(directory: Path) -> list[Path]:
    """Pictures in and below *directory*, by name."""
    return sorted(file for file in directory.rglob("*") if file.suffix.lower() in ENDINGS)


# --- Directories -------------------------------------------------------------------------------------------

Listed = dict[str, list[tuple[bytes, int]]]  # of each part: files, and their classes


def listed(directory: Path) -> tuple[list[str], Listed]:
    """Return the classes of *directory*, and the pictures of each part with the numbers of their classes.

    Of train/CLASS/ and val/CLASS/ (or test/), as Imagenette has it; of CLASS/ alone every fifth picture is
    for the test.

    Raises:
        LabError: there are no two classes, or the second part has others than the first.
    """
    trained = directory / "train" if (directory / "train").is_dir() else directory
    tested = next((directory / name for name in ("val", "test") if (directory / name).is_dir()), None)
    tested = tested if trained != directory else None
    found = {
        part: _of_classes(place) if place else {}
        for part, place in zip(PARTS, (trained, tested), strict=True)
    }
    classes = list(found["train"])
    if len(classes) < 2:  # noqa: PLR2004 - there is nothing to tell apart
        raise LabError(
            f"{trained} has {len(classes) or 'no'} directories with pictures ({' '.join(ENDINGS)}), one for "
            "each class; two or more are needed: name another directory"
        )
    if unknown := [name for name in found["test"] if name not in classes]:
        raise LabError(f"{tested} has a class {unknown[0]}, which {trained} has not: make them alike")
    if not tested:
        found["test"] = {name: files[::5] for name, files in found["train"].items()}
        found["train"] = {
            name: [file for n, file in enumerate(files) if n % 5] for name, files in found["train"].items()
        }
    return classes, {
        part: [(os.fsencode(file), classes.index(name)) for name, files in some.items() for file in files]
        for part, some in found.items()
    }


def _of_classes(directory: Path) -> dict[str, list[Path]]:
    try:
        places = sorted(place for place in directory.iterdir() if place.is_dir())
    except OSError as error:
        raise LabError(f"{directory} cannot be read ({error}): name a directory of pictures") from error
    return {place.name: files for place in places if (files := below(place))}


# --- Shards ------------------------------------------------------------------------------------------------


def encoded(file: Any) -> Any:
    """Return the picture in *file*, or its first frame, as a JPEG of 256 x 256."""
    picture = tf.io.decode_image(tf.io.read_file(file), 3, expand_animations=False)
    scaled = tf.image.resize(picture, [SIDE, SIDE], antialias=True)
    return tf.io.encode_jpeg(tf.cast(tf.round(scaled), tf.uint8), quality=95, chroma_downsampling=False)


def write(
    target: Path, some: list[tuple[bytes, int]], threads: int, told: Callable[[int], None]
) -> tuple[dict[str, Any], list[str]]:
    """Write *some* pictures to the shard *target*: what shards.json says of it; names of those left out.

    A shard is there whole or not at all. *told* is given the number of pictures done, now and then.
    """
    files, labels = zip(*some, strict=True)
    jpegs = (
        tf.data.Dataset.from_tensor_slices(np.arange(len(files)))
        .map(lambda index: (index, encoded(tf.gather(tf.constant(files), index))), threads)
        .ignore_errors()  # an index that does not come out is that of a picture that cannot be read
        .prefetch(2 * threads)
    )
    part, done = target.with_suffix(".part"), set()
    with tf.io.TFRecordWriter(str(part)) as writer:
        for index, jpeg in jpegs.as_numpy_iterator():
            writer.write(_example(jpeg, labels[index]))
            done.add(int(index))
            told(len(done))
    facts = {"file": target.name, "pictures": len(done), "bytes": part.stat().st_size}
    part.replace(target)
    return facts, [os.fsdecode(file) for index, file in enumerate(files) if index not in done]


def _example(jpeg: bytes, label: int) -> bytes:
    feature = {
        "jpeg": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    return serialized


@dataclass(frozen=True)
class Shards:
    """Pictures in shards: their *classes*; of each part the names of its files, with the pictures in each."""

    directory: Path
    classes: list[str]
    files: dict[str, list[tuple[str, int]]]

    @staticmethod
    def found(directory: Path) -> "Shards":
        """Return those in *directory*.

        Raises:
            LabError: there are none, or a file is missing or has another size than when it was written.
        """
        make = "make them from a directory that has one for each class: sbatch jobs/shards.sh DIRECTORY"
        try:
            told = json.loads((directory / MANIFEST).read_text())
            for shard in [shard for part in PARTS for shard in told[part]]:
                if (directory / shard["file"]).stat().st_size != shard["bytes"]:
                    raise LabError(f"{directory / shard['file']} is damaged: {make}")
            files = {part: [(shard["file"], shard["pictures"]) for shard in told[part]] for part in PARTS}
            return Shards(directory, told["classes"], files)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{directory} has no whole shards of pictures ({error}): {make}") from error

    def pictures(self, part: str) -> int:
        """Pictures in all shards of *part*."""
        return sum(number for _, number in self.files[part])

    def fewest(self, part: str, ranks: World) -> int:
        """Pictures of the rank that has the fewest of *part*: so many all ranks can take.

        Raises:
            LabError: a rank has none.
        """
        shares = [
            sum(number for _, number in self.files[part][rank :: ranks.size]) for rank in range(ranks.size)
        ]
        if not min(shares):
            raise LabError(
                f"{ranks.size} ranks read a shard each or more, but {self.directory} has "
                f"{count(len(self.files[part]), 'shard')} for {part}: use no more ranks than shards, "
                "or write more: sbatch jobs/shards.sh DIRECTORY --shards NUMBER"
            )
        return min(shares)

    def read(self, part: str, ranks: World, *, epoch: Any = None, seed: int = 0) -> Any:
        """Return this rank's pictures of *part*, still JPEGs, with classes; shuffled for *epoch*, if given.

        Horovod: each rank reads its own shards, four at a time.
        """
        names = [str(self.directory / name) for name, _ in self.files[part][ranks.rank :: ranks.size]]
        shards = tf.data.Dataset.from_tensor_slices(names)
        if epoch is not None:
            shards = shards.shuffle(len(names), seed + epoch, reshuffle_each_iteration=False)
        records = shards.interleave(
            tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        if epoch is not None:
            records = records.shuffle(1000, seed + epoch, reshuffle_each_iteration=False)
        features = {
            "jpeg": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }

        def parsed(record: Any) -> Any:
            example = tf.io.parse_single_example(record, features)
            return example["jpeg"], example["label"]

        return records.map(parsed)


def decoded(jpeg: Any) -> Any:
    """Return the picture (256, 256, 3), 0 to 255."""
    return tf.ensure_shape(tf.io.decode_jpeg(jpeg, 3), [SIDE, SIDE, 3])
