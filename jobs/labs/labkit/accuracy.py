"""How many images a network names rightly."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labs.labkit.lazy import hvd, tf
from labs.labkit.world import World


def share(score: Callable[[Any], Any], data: tuple[Any, Any], ranks: World) -> float:
    """Share of the images of *data* (images, labels) in which the highest *score* is that of the label."""
    images, labels = (part[ranks.rank :: ranks.size] for part in data)  # Horovod: each rank reads its part
    right = 0
    for begin in range(0, len(images), 500):
        chunk = slice(begin, begin + 500)
        right += int(np.sum(np.argmax(score(images[chunk]), axis=1) == labels[chunk]))
    # Horovod: counts are added up; an average of accuracies would be wrong where the parts differ in size.
    return int(hvd.allreduce(tf.constant(right), op=hvd.Sum)) / len(data[1])
