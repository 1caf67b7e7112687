"""The workshop's optimizers, by the names of its exercises."""

from typing import Any

from labs.labkit.lazy import tf

# Classes of tf.compat.v1.train, which every release from 2.14 on has alike, under Keras 2 and Keras 3.
CLASSES: dict[str, tuple[str, dict[str, float]]] = {
    "gd": ("GradientDescentOptimizer", {}),
    "momentum": ("MomentumOptimizer", {"momentum": 0.9}),
    "rmsprop": ("RMSPropOptimizer", {}),
    "adam": ("AdamOptimizer", {}),
}


def make(name: str, rates: Any, step: Any) -> Any:
    """Return the optimizer *name*; *rates* (steps,) has the learning rate of each *step*, a variable."""
    method, parameters = CLASSES[name]
    return getattr(tf.compat.v1.train, method)(lambda: tf.gather(rates, step), **parameters)
