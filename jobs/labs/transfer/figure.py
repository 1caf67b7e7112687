"""Curves of two networks, and some pictures with what each took them for."""

from pathlib import Path
from typing import Any

from labs.labkit import plot

NETS = {"pretrained": plot.BLUE, "scratch": plot.ORANGE}


def draw(file: Path, title: str, history: dict[str, Any], border: int, shown: list[tuple[Any, ...]]) -> None:
    """Draw loss and test accuracy of both networks; below, test pictures.

    *history*: losses of each step, and `test`, pairs of step and accuracies. All layers learn from step
    *border* on. *shown*: pictures (height, width, channels), blue first; their classes; what each network
    took them for.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(10, 5.6), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=plot.INK)
    above, below = figure.subfigures(2, 1, height_ratios=[3.2, 1])
    left, right = above.subplots(1, 2)
    tests = history["test"]
    for number, (network, colour) in enumerate(NETS.items()):
        losses = history[("loss", "scratch_loss")[number]]
        left.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=1)
        accuracies = [value[number] for _, value in tests]
        right.plot(
            [at for at, _ in tests],
            accuracies,
            "o-",
            color=colour,
            label=f"{network}, last {accuracies[-1]:.3f}",
        )
    left.set(xlabel="step", ylabel="loss of training batches")
    right.set(xlabel="step", ylabel="test accuracy", ylim=(0, 1))
    for axes in (left, right):
        plot.quiet(axes)
        axes.axvline(border, color=plot.INK, linewidth=1, linestyle="--")
    left.annotate(
        "last layer | all layers", (border, left.get_ylim()[1]), ha="center", va="bottom", fontsize=8
    )
    right.legend(frameon=False, loc="upper right")
    for axes, (image, label, *names) in zip(
        below.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
    ):
        low, high = image.min(), image.max()
        axes.imshow((image[..., ::-1] - low) / max(high - low, 1), cmap="gray_r")
        axes.set_title(" / ".join(names), fontsize=8, color=plot.BLUE if names[0] == label else plot.RED)
        axes.set_axis_off()
    below.supxlabel(
        "test pictures: what the pretrained network / the one from scratch took them for", fontsize=9
    )
    figure.savefig(file)
