"""What is to be told apart: digits in fields, in memory, or pictures of the user's, read from shards."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from labs.caffe import net
from labs.labkit import LabError, accuracy, datasets, pictures, plan
from labs.labkit.lazy import hvd, tf
from labs.labkit.world import World
from labs.transfer.networks import caffenet_scores, small_scores

FIELDS = 12_000  # for pretraining
TESTED = 2000  # fields with test images
SHOWN = 10  # test pictures in the plot


class Fields:
    """Digits in fields: 0 to 4 with many examples, 5 to 9 with few."""

    kind, scores, dropped = "digits", staticmethod(small_scores), 0.0

    def __init__(self, given: argparse.Namespace, ranks: World) -> None:
        data = datasets.handwritten(given.data_dir)
        random = np.random.default_rng(given.seed)
        self.ranks, self.name, self.classes = ranks, data.name, [str(digit) for digit in range(5, 10)]
        self.source = _some(data.train, range(5), random, FIELDS)
        self.train = _some(data.train, range(5, 10), random, given.examples, each=True)
        self.test = _some(data.test, range(5, 10), random, TESTED)
        self.examples = len(self.train[1])
        # A batch may take each of few examples more than once.
        self.samples = max(self.examples, given.global_batch_size)
        self.description = (
            f"the digits 5 to 9 of {data.description}, each in a field of 40 x 40 among scraps, made here; "
            f"{self.examples} examples, {len(self.test[1]):,} to test with"
        )

    def begin(self, done: int) -> None:
        """Nothing to do: all are in memory."""

    def take(self, rows: Any) -> tuple[Any, Any, Any]:
        """Return fields and digits at *rows*, and for how long the step waited for them."""
        images, labels = (tf.gather(tf.constant(part), rows % self.examples) for part in self.train)
        return images, labels, tf.constant(0.0, tf.float64)

    def tested(self, score: Callable[[Any], Any]) -> float:
        """Share of the test images that *score* names rightly."""
        return accuracy.share(score, self.test, self.ranks)

    def shown(self) -> tuple[Any, list[int]]:
        """Return some test images and their classes."""
        return self.test[0][:SHOWN], self.test[1][:SHOWN].tolist()


def _some(
    part: tuple[Any, Any], digits: range, random: np.random.Generator, number: int, *, each: bool = False
) -> tuple[Any, Any]:
    """Put a *number* of images of *digits*, or so many of *each*, into fields; labels count from 0."""
    images, labels = part
    if each:
        found = [random.permutation(np.flatnonzero(labels == digit))[:number] for digit in digits]
        if (short := min(map(len, found))) < number:
            raise LabError(
                f"there are not {number} examples of each digit, but {short}: use --examples {short}"
            )
        chosen = np.concatenate(found)
    else:
        # scikit-learn has few: each several times, in another field
        chosen = np.resize(random.permutation(np.flatnonzero(np.isin(labels, digits))), number)
    return datasets.scattered(images[chosen], random), labels[chosen].astype(np.int64) - digits[0]


class Pictures:
    """Pictures of the user's, in shards, for CaffeNet, which learns from random parts and mirror images."""

    kind, scores, dropped = "pictures", staticmethod(caffenet_scores), 0.5

    def __init__(self, given: argparse.Namespace, ranks: World) -> None:
        # Horovod: one rank looks whether the files are there.
        self.shards = hvd.broadcast_object(pictures.Shards.found(given.images) if ranks.rank == 0 else None)
        self.ranks, self.seed = ranks, given.seed
        self.name, self.classes = given.images.name, self.shards.classes
        self.share = plan.share(1, given.global_batch_size, ranks.size)
        self.examples, fewest = self.shards.pictures("train"), self.shards.fewest("train", ranks)
        if fewest < self.share:
            raise LabError(
                f"a rank takes {self.share} pictures at a step, but its shards in {given.images} have only "
                f"{fewest}: use --global-batch-size {fewest * ranks.size} or less"
            )
        self.samples = fewest // self.share * self.share * ranks.size
        self.shards.fewest("test", ranks)
        self.begin(0)
        self.description = (
            f"{self.shards.pictures('train'):,} pictures of {given.images}, {self.shards.pictures('test'):,} "
            f"to test with, {len(self.classes)} classes"
        )

    def begin(self, done: int) -> None:
        """Start to read where a run goes on that has taken *done* steps."""
        of_epoch = (
            self.samples // self.ranks.size
        )  # Horovod: as many on each rank, so that none waits for ever
        stream = (
            tf.data.Dataset.range(2**40)
            .flat_map(lambda n: self.shards.read("train", self.ranks, epoch=n, seed=self.seed).take(of_epoch))
            .enumerate()
            .skip(done * self.share)
            .map(self._cut, self.ranks.threads)
            .batch(self.share, drop_remainder=True)
            .prefetch(2)
        )
        self._next = iter(stream)

    def _cut(self, number: Any, record: tuple[Any, Any]) -> tuple[Any, Any]:
        jpeg, label = record
        chance = [self.seed + 1_000_003 * self.ranks.rank, number]
        cut = tf.image.stateless_random_crop(pictures.decoded(jpeg), [net.SIZE, net.SIZE, 3], chance)
        return net.prepared(tf.image.stateless_random_flip_left_right(cut, chance)), label

    def take(self, _: Any) -> tuple[Any, Any, Any]:
        """Return the next pictures and classes, and for how long the step waited for them."""
        begun = tf.timestamp()
        with tf.control_dependencies([begun]):
            images, labels = next(self._next)
        with tf.control_dependencies([images]):
            return images, labels, tf.timestamp() - begun

    def _tests(self) -> Any:
        middle = (pictures.SIDE - net.SIZE) // 2
        return self.shards.read("test", self.ranks).map(
            lambda jpeg, label: (
                net.prepared(
                    tf.image.crop_to_bounding_box(pictures.decoded(jpeg), middle, middle, net.SIZE, net.SIZE)
                ),
                label,
            ),
            self.ranks.threads,
        )

    def tested(self, score: Callable[[Any], Any]) -> float:
        """Share of the test pictures that *score* names rightly."""
        right = sum(
            int(np.sum(np.argmax(score(images), axis=1) == labels))
            for images, labels in self._tests().batch(50).prefetch(1)
        )
        # Horovod: counts are added up.
        return int(hvd.allreduce(tf.constant(right), op=hvd.Sum)) / self.shards.pictures("test")

    def shown(self) -> tuple[Any, list[int]]:
        """Return some test images and their classes."""
        images, labels = next(iter(self._tests().batch(SHOWN)))
        return images.numpy(), labels.numpy().tolist()
