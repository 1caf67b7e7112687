"""CaffeNet in TensorFlow, with Caffe's meaning of each layer.

AlexNet (Krizhevsky et al., 2012) with pooling before normalization, as Caffe's authors trained it
(BVLC/caffe, models/bvlc_reference_caffenet): 60,965,224 weights, 724 million multiplications per image.
Where the two libraries differ it says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labs.caffe.files import Array, Blobs, by
from labs.labkit import LabError
from labs.labkit.lazy import tf

SIZE = 227  # pixels of an image's side
CLASSES = 1000
MEAN = (104.0069879317889, 116.66876761696767, 122.6789143406786)  # of ImageNet's pixels: blue, green, red
SHA1 = "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"  # of bvlc_reference_caffenet.caffemodel, as published
ALPHA, BETA, AROUND = 1e-4, 0.75, 2  # of normalization: over 2 channels on both sides, and itself


@dataclass(frozen=True)
class Layer:
    """Shape of a layer's weights as Caffe has it; how it starts to be trained; how a convolution moves."""

    shape: tuple[int, ...]  # outputs, inputs (of its group), height, width
    deviation: float
    bias: float
    groups: int = 1
    stride: int = 1


LAYERS = {
    "conv1": Layer((96, 3, 11, 11), 0.01, 0.0, stride=4),
    "conv2": Layer((256, 48, 5, 5), 0.01, 1.0, groups=2),
    "conv3": Layer((384, 256, 3, 3), 0.01, 0.0),
    "conv4": Layer((384, 192, 3, 3), 0.01, 1.0, groups=2),
    "conv5": Layer((256, 192, 3, 3), 0.01, 1.0, groups=2),
    "fc6": Layer((4096, 9216), 0.005, 1.0),
    "fc7": Layer((4096, 4096), 0.005, 1.0),
    "fc8": Layer((CLASSES, 4096), 0.01, 0.0),
}

# --- Weights -----------------------------------------------------------------------------------------------


def random(seed: int) -> Blobs:
    """Weights as training starts with them (models/bvlc_reference_caffenet/train_val.prototxt)."""
    draw = np.random.default_rng(seed)
    return {
        name: [
            np.float32(layer.deviation) * draw.standard_normal(layer.shape, np.float32),
            np.full(layer.shape[0], layer.bias, np.float32),
        ]
        for name, layer in LAYERS.items()
    }


def fitting(blobs: Blobs, file: Path) -> Blobs:
    """Those of *blobs*, read from *file*, that CaffeNet has, in its shapes: old files write 1 x 1 x 1 x 96.

    Raises:
        LabError: a layer is missing, has another shape, or stands where AlexNet has it.
    """
    order = [name for name in blobs if name in ("norm1", "pool1")]
    if order == ["norm1", "pool1"]:
        raise LabError(f"{file} normalizes before it pools, as AlexNet does; this lab computes CaffeNet only")
    made: Blobs = {}
    for name, layer in LAYERS.items():
        found = blobs.get(name, [])
        wanted = [layer.shape, layer.shape[:1]]
        shapes = [array.shape for array in found]
        if [_short(shape) for shape in shapes] != [_short(shape) for shape in wanted]:
            is_, should = (" and ".join(map(by, those)) or "no weights" for those in (shapes, wanted))
            raise LabError(
                f"{file}: layer {name} has {is_}, but CaffeNet's has {should}: it is another model"
            )
        made[name] = [array.reshape(shape) for array, shape in zip(found, wanted, strict=True)]
    return made


def _short(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return *shape* without the ones at its front."""
    return _short(shape[1:]) if shape[:1] == (1,) else shape


def variables(blobs: Mapping[str, list[Array]]) -> dict[str, tuple[Any, Any]]:
    """Weights and biases of each layer; a convolution's as TensorFlow wants them: height, width, in, out."""
    return {
        name: (tf.Variable(weights.transpose(2, 3, 1, 0) if weights.ndim > 2 else weights), tf.Variable(bias))  # noqa: PLR2004
        for name, (weights, bias) in blobs.items()
    }


def blank() -> dict[str, tuple[Any, Any]]:
    """Return variables of these shapes, to be filled from another rank."""
    return variables(
        {
            name: [np.zeros(layer.shape, np.float32), np.zeros(layer.shape[:1], np.float32)]
            for name, layer in LAYERS.items()
        }
    )


# --- Network -----------------------------------------------------------------------------------------------


def prepared(image: Any, mean: Any = MEAN) -> Any:
    """Return *image* (height, width, 3), red first, 0 to 255, as the network takes it.

    It is scaled to 227 x 227 whatever its sides, bilinearly between the centres of pixels and without
    smoothing first, as caffe.io does with the scikit-image of its time. (Around an image that grows, that
    sees the image's darkest value, this its border: the outermost pixels differ.) Then blue comes first, and
    the mean goes off.
    """
    scaled = tf.image.resize(tf.cast(image, tf.float32), [SIZE, SIZE])
    return scaled[..., ::-1] - tf.constant(mean, tf.float32)


def activations(
    weights: Mapping[str, tuple[Any, Any]],
    images: Any,
    alpha: float = ALPHA,
    dropout: Callable[[Any], Any] = lambda layer: layer,
) -> dict[str, Any]:
    """Return what each layer gives for *images* (n, 227, 227, 3), by Caffe's names.

    As in Caffe, conv1 and fc6 are told behind their ReLU; `prob` are probabilities (n, 1000). In training
    *dropout* is put behind fc6 and fc7.
    """
    conv1 = _convolution("conv1", weights, images)
    norm1 = _normalized(_pooled(conv1), alpha)
    norm2 = _normalized(_pooled(_convolution("conv2", weights, norm1)), alpha)
    conv3 = _convolution("conv3", weights, norm2)
    conv4 = _convolution("conv4", weights, conv3)
    pool5 = _pooled(_convolution("conv5", weights, conv4))
    # Caffe's arrays have the channels first, and fc6 takes the values in that order.
    flat = tf.reshape(tf.transpose(pool5, [0, 3, 1, 2]), [-1, LAYERS["fc6"].shape[1]])
    fc6 = dropout(tf.nn.relu(_full("fc6", weights, flat)))
    fc7 = dropout(tf.nn.relu(_full("fc7", weights, fc6)))
    fc8 = _full("fc8", weights, fc7)
    given = {"conv1": conv1, "norm1": norm1, "norm2": norm2, "pool5": pool5, "fc6": fc6, "fc8": fc8}
    return given | {"prob": tf.nn.softmax(fc8)}


def _convolution(name: str, weights: Mapping[str, tuple[Any, Any]], layer: Any) -> Any:
    """Return a convolution and its ReLU; but the first it keeps height and width."""
    kernel, bias = weights[name]
    groups, stride = LAYERS[name].groups, LAYERS[name].stride
    # Each group sees its own part of the channels. Apart: without oneDNN, as on Power, CPUs know no groups.
    parts = [
        tf.nn.conv2d(part, own, stride, "SAME" if stride == 1 else "VALID")
        for part, own in zip(tf.split(layer, groups, -1), tf.split(kernel, groups, -1), strict=True)
    ]
    return tf.nn.relu(tf.nn.bias_add(tf.concat(parts, -1), bias))


def _pooled(layer: Any) -> Any:
    """Return the largest of 3 x 3, in steps of 2; Caffe rounds up, so the last may reach over the edge."""
    over = [[0, 0], *([0, (size - 3) % 2] for size in layer.shape[1:3]), [0, 0]]
    return tf.nn.max_pool2d(layer, 3, 2, over)


def _normalized(layer: Any, alpha: float) -> Any:
    """Divide by what the channels beside it give: Caffe's alpha is for the mean, TensorFlow's for the sum."""
    return tf.nn.local_response_normalization(layer, AROUND, 1.0, alpha / (2 * AROUND + 1), BETA)


def _full(name: str, weights: Mapping[str, tuple[Any, Any]], layer: Any) -> Any:
    matrix, bias = weights[name]
    return tf.nn.bias_add(tf.matmul(layer, matrix, transpose_b=True), bias)
