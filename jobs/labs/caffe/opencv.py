"""CaffeNet as OpenCV computes it, which reads Caffe's files by code of its own: an independent witness."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from labs.caffe import files
from labs.labkit import LabError

BOUND = 1e-5  # of a layer's largest value
READS_NO_CAFFE = "5"  # version
COMPARED = ("norm1", "norm2", "pool5", "fc8")

# Caffe's models/bvlc_reference_caffenet/deploy.prototxt; without dropout, which only training does.
_CONVOLUTION = 'type: "Convolution" convolution_param'
_POOLING = 'type: "Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 }'
_NORM = 'type: "LRN" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }'
_FULL = 'type: "InnerProduct" inner_product_param'
_RELU = 'type: "ReLU"'
NETWORK = {  # each layer takes what the one before it gives
    "conv1": f"{_CONVOLUTION} {{ num_output: 96 kernel_size: 11 stride: 4 }}",
    "relu1": _RELU,
    "pool1": _POOLING,
    "norm1": _NORM,
    "conv2": f"{_CONVOLUTION} {{ num_output: 256 pad: 2 kernel_size: 5 group: 2 }}",
    "relu2": _RELU,
    "pool2": _POOLING,
    "norm2": _NORM,
    "conv3": f"{_CONVOLUTION} {{ num_output: 384 pad: 1 kernel_size: 3 }}",
    "relu3": _RELU,
    "conv4": f"{_CONVOLUTION} {{ num_output: 384 pad: 1 kernel_size: 3 group: 2 }}",
    "relu4": _RELU,
    "conv5": f"{_CONVOLUTION} {{ num_output: 256 pad: 1 kernel_size: 3 group: 2 }}",
    "relu5": _RELU,
    "pool5": _POOLING,
    "fc6": f"{_FULL} {{ num_output: 4096 }}",
    "relu6": _RELU,
    "fc7": f"{_FULL} {{ num_output: 4096 }}",
    "relu7": _RELU,
    "fc8": f"{_FULL} {{ num_output: 1000 }}",
    "prob": 'type: "Softmax"',
}


def load() -> ModuleType:
    """Return OpenCV.

    Raises:
        LabError: it is not there, or is one that cannot read Caffe's files.
    """
    try:
        cv2 = importlib.import_module("cv2")
        if cv2.__version__ < READS_NO_CAFFE:
            return cv2
        found = f"OpenCV is {cv2.__version__} here, which cannot read Caffe's files"
    except ModuleNotFoundError:
        found = "OpenCV is not in this image"
    raise LabError(
        f"{found}, and --check compares with OpenCV 4: take the lab image with the layer opencv "
        "(MINSKY_IMAGE=FILE names it to the job; `python -m minsky.images build lab --with opencv "
        "--format sif` in a checkout makes it), or leave --check out",
    )


def network(model: bytes, size: int) -> Any:
    """Return OpenCV's network for images of *size* x *size*, with the weights of *model*, a .caffemodel."""
    text = f'input: "data" input_shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }}\n'
    bottom = "data"
    for name, what in NETWORK.items():
        text += f'layer {{ name: "{name}" bottom: "{bottom}" top: "{name}" {what} }}\n'
        bottom = name
    return load().dnn.readNetFromCaffe(text.encode(), model)


def differences(blobs: files.Blobs, images: Any, ours: dict[str, Any]) -> dict[str, float]:
    """Largest difference of *ours* from OpenCV's layers, over the largest value there, for *images*, NHWC."""
    theirs = network(files.model(blobs), images.shape[1])
    theirs.setInput(np.ascontiguousarray(np.transpose(images, (0, 3, 1, 2))))
    found = {}
    for name, expected in zip(COMPARED, theirs.forward(COMPARED), strict=True):
        values = np.asarray(ours[name])
        values = values.transpose(0, 3, 1, 2) if values.ndim == 4 else values  # noqa: PLR2004
        found[name] = float(np.max(np.abs(values - expected)) / np.max(np.abs(expected)))
    return found
