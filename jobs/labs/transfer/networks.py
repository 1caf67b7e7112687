"""The two networks of which the lab has a pair: one for digits in fields, and CaffeNet for pictures."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from labs.caffe import files, net
from labs.labkit.lazy import tf

Weights = dict[str, Any]  # a layer's variables are NAME and NAME_bias


def small(seed: int) -> Weights:
    """Weights for fields: three convolutions, 256 neurons, the last layer; He's start, the last of zeros."""
    random = np.random.default_rng(seed)
    shapes = {
        "conv1": (5, 5, 1, 16),
        "conv2": (5, 5, 16, 32),
        "conv3": (3, 3, 32, 64),
        "full": (5 * 5 * 64, 256),
    }
    weights: Weights = {}
    for name, shape in shapes.items():
        drawn = random.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        weights |= {
            name: tf.Variable(drawn.astype(np.float32)),
            f"{name}_bias": tf.Variable(tf.zeros(shape[-1])),
        }
    return weights | {"last": tf.Variable(tf.zeros([256, 5])), "last_bias": tf.Variable(tf.zeros(5))}


def small_scores(weights: Weights, fields: Any, dropout: Callable[[Any], Any]) -> Any:
    """Scores of five digits, (n, 5), for *fields* (n, 40, 40, 1), 0 to 255."""
    layer = tf.cast(fields, tf.float32) / 255
    for name in ("conv1", "conv2", "conv3"):  # 40 x 40 x 1 -> 20 x 20 x 16 -> 10 x 10 x 32 -> 5 x 5 x 64
        layer = tf.nn.relu(tf.nn.conv2d(layer, weights[name], 1, "SAME") + weights[f"{name}_bias"])
        layer = tf.nn.max_pool2d(layer, 2, 2, "SAME")
    layer = tf.nn.relu(tf.reshape(layer, [-1, 5 * 5 * 64]) @ weights["full"] + weights["full_bias"])
    return dropout(layer) @ weights["last"] + weights["last_bias"]


def caffenet(blobs: files.Blobs, classes: int) -> Weights:
    """Return *blobs* as weights, but the last layer, which is of zeros, as in the notebook."""
    last, inputs = list(net.LAYERS)[-1], net.LAYERS["fc8"].shape[1]
    made = net.variables({name: arrays for name, arrays in blobs.items() if name != last})
    weights = {
        name + end: var for name, pair in made.items() for end, var in zip(("", "_bias"), pair, strict=True)
    }
    return weights | {
        "last": tf.Variable(tf.zeros([classes, inputs])),
        "last_bias": tf.Variable(tf.zeros(classes)),
    }


def caffenet_scores(weights: Weights, images: Any, dropout: Callable[[Any], Any]) -> Any:
    """Scores of the classes for *images* (n, 227, 227, 3), as net.prepared gives them."""
    layers = {name: (weights[name], weights[f"{name}_bias"]) for name in net.LAYERS if name != "fc8"}
    layers["fc8"] = (weights["last"], weights["last_bias"])
    return net.activations(layers, images, dropout=dropout)["fc8"]
