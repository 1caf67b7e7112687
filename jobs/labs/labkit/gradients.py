"""The one thing that makes a training distributed: gradients, added up over the ranks."""

from typing import Any

from labs.labkit.lazy import hvd, tf


def add_up(gradients: list[Any]) -> tuple[list[Any], Any]:
    """Return the sums of *gradients* over all ranks, and for how many seconds the step waited for them.

    What `hvd.DistributedGradientTape(op=hvd.Sum)` does, and a clock: each gradient is sent as soon as it is
    computed, while the others still are; what counts as waiting begins when this rank has all of its own.
    Those of an embedding, of which a batch touches few rows, travel whole: gathered instead of added they
    would grow with the number of ranks.
    """
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if hvd.size() == 1:
        return dense, tf.constant(0.0, tf.float64)
    with tf.control_dependencies(dense):
        begun = tf.timestamp()
    summed = [hvd.allreduce(gradient, op=hvd.Sum) for gradient in dense]
    with tf.control_dependencies([*summed, begun]):
        return summed, tf.timestamp() - begun
