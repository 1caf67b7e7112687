"""The picture that a run leaves: filters and activations, as the notebook shows them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import plot


def draw(file: Path, caption: str, name: str, shown: Mapping[str, Any], classes: list[str]) -> None:
    """Draw to *file* what is *shown* of one image, called *name*; *classes* are the names of the classes.

    Shown are the layers by Caffe's names, without the dimension of the batch; `filters`, conv1's as Caffe has
    them; and `image` (height, width, 3), red first, 0 to 255.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(16, 8), dpi=110, layout="constrained")
    figure.suptitle(caption, color=plot.INK)
    top, bottom = figure.subplots(2, 4)
    squares = {
        name: shown["image"].clip(0, 255) / 255,
        "conv1: its 96 filters": mosaic(shown["filters"].transpose(0, 2, 3, 1)[..., ::-1]),
        "conv1: 36 of its 96 outputs": mosaic(shown["conv1"].transpose(2, 0, 1)[:36]),
        "pool5: its 256 outputs": mosaic(shown["pool5"].transpose(2, 0, 1)),
    }
    for axes, (title, square) in zip(top, squares.items(), strict=True):
        axes.imshow(square, cmap="gray", interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    values, histogram, each, likeliest = bottom
    values.plot(shown["fc6"], color=plot.BLUE, linewidth=0.5)
    values.set(title="fc6: its 4096 outputs", xlabel="neuron")
    histogram.hist(shown["fc6"][shown["fc6"] > 0], bins=100, color=plot.BLUE)
    histogram.set(title="fc6: how many outputs of which size", xlabel="output above 0")
    each.plot(shown["prob"], color=plot.BLUE, linewidth=0.8)
    each.set(title="prob: of each class", xlabel="class")
    five = np.argsort(shown["prob"])[-5:]
    likeliest.barh([classes[number][:30] for number in five], shown["prob"][five], color=plot.ORANGE)
    likeliest.set(title="the five likeliest classes", xlabel="probability")
    figure.savefig(file)


def mosaic(tiles: Any) -> Any:
    """Return *tiles* (n, height, width), coloured or not, side by side in a square, scaled to 0..1."""
    side = math.ceil(math.sqrt(len(tiles)))
    scaled = (tiles - tiles.min()) / ((tiles.max() - tiles.min()) or 1)
    border = [(0, side**2 - len(tiles)), (0, 1), (0, 1), *[(0, 0)] * (tiles.ndim - 3)]
    _, height, width, *colours = (padded := np.pad(scaled, border, constant_values=1)).shape
    rows = padded.reshape(side, side, height, width, *colours).swapaxes(1, 2)
    return rows.reshape(side * height, side * width, *colours)
