"""First weights, drawn by NumPy from a seed: the same for a lab and for its twin by hand."""

import itertools

import numpy as np
import numpy.typing as npt

Weights = dict[str, npt.NDArray[np.float64]]


def line(seed: int, start: float | None = None) -> Weights:
    """Slope and intercept of a line, `w` and `b`: drawn from N(0, 1), or both *start*."""
    drawn = np.random.default_rng(seed).normal(size=2)
    w, b = drawn if start is None else (start, start)
    return {"w": np.array(w), "b": np.array(b)}


def zeros(inputs: int, outputs: int) -> Weights:
    """A layer without a preference: `w1` (inputs, outputs) and `b1` (outputs,)."""
    return {"w1": np.zeros((inputs, outputs)), "b1": np.zeros(outputs)}


def layers(sizes: list[int], seed: int, init: str) -> Weights:
    """Weights between layers of *sizes*: `w1` (sizes[0], sizes[1]), `b1` (sizes[1],), `w2` and so on.

    *init*: `he`, deviation sqrt(2 / inputs) and biases of 0 (He et al., arXiv:1502.01852); `published`, all
    from N(0, 1), as the workshop's notebook.
    """
    random = np.random.default_rng(seed)
    weights: Weights = {}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), 1):
        scale = np.sqrt(2 / inputs) if init == "he" else 1.0
        weights[f"w{number}"] = random.normal(0, scale, (inputs, outputs))
        weights[f"b{number}"] = np.zeros(outputs) if init == "he" else random.normal(size=outputs)
    return weights
