"""A fully connected network by hand: back-propagation, written out. The lab is labs/neural_network.py.

Forwards: A0 = X; Zl = A(l-1) Wl + bl; Al = g(Zl), and softmax at the end. Backwards, as the workshop has it
but with rows for samples: dZL = AL - Y; dWl = 1/m A(l-1)^T dZl; dbl = 1/m sum dZl;
dZ(l-1) = dZl Wl^T * g'(Z(l-1)).
"""

import argparse

import numpy as np

from labs.by_hand import shared
from labs.by_hand.shared import Ranks, Vector
from labs.labkit import datasets, options, plan, result, starts
from labs.neural_network import GOALS, STEPS, sizes

LAB = "by_hand/neural_network"

# g of Z, and g' of Z in terms of A = g(Z)
ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda a: a > 0),
    "tanh": (np.tanh, lambda a: 1 - a * a),
    "sigmoid": (lambda z: (1 + np.tanh(z / 2)) / 2, lambda a: a * (1 - a)),  # 1 / (1 + exp(-z)) overflows
    "linear": (lambda z: z, np.ones_like),
}


def forward(weights: starts.Weights, x: Vector, activation: str) -> list[Vector]:
    """A0 to ZL: pixels *x* (n, 784), the outputs of each hidden layer, the scores of the digits (n, 10)."""
    g, layers = ACTIVATIONS[activation][0], len(weights) // 2
    outputs = [x]
    for number in range(1, layers + 1):
        z = outputs[-1] @ weights[f"w{number}"] + weights[f"b{number}"]
        outputs.append(g(z) if number < layers else z)
    return outputs


def gradients(
    weights: starts.Weights, x: Vector, y: Vector, m: int, activation: str
) -> tuple[float, starts.Weights]:
    """Parts of the loss over *m* images, and of its derivatives: those of *x* (n, 784) and *y* (n, 10)."""
    *outputs, z = forward(weights, x, activation)
    slope = ACTIVATIONS[activation][1]
    found: starts.Weights = {}
    dz = shared.softmax(z) - y
    for number in range(len(outputs), 0, -1):
        a = outputs[number - 1]
        found |= {f"w{number}": a.T @ dz / m, f"b{number}": dz.sum(axis=0) / m}
        if number > 1:
            dz = dz @ weights[f"w{number}"].T * slope(a)
    return shared.cross_entropy(z, y) / m, found


def adam(weights: starts.Weights, rates: Vector) -> shared.Update:
    """Adam as TensorFlow computes it: with the corrections in the rate, and epsilon outside of them.

    Source: Kingma and Ba, arXiv:1412.6980, the end of section 2; tf.compat.v1.train.AdamOptimizer.
    """
    # In single precision, as TensorFlow holds them whatever the weights have: that puts 1 - .999 and later
    # 1 - .999^t off by 1e-5, of which a ReLU that is nearly off makes 1e-3 of the loss in 50 steps.
    betas = np.array([0.9, 0.999], np.float32)
    powers = betas.copy()
    beta1, beta2 = betas.tolist()
    m = {name: np.zeros_like(value) for name, value in weights.items()}
    v = {name: np.zeros_like(value) for name, value in weights.items()}

    def update(step: int, slopes: starts.Weights) -> None:
        power1, power2 = powers.tolist()
        rate = rates[step] * np.sqrt(1 - power2) / (1 - power1)
        for name, slope in slopes.items():
            m[name] += (1 - beta1) * (slope - m[name])
            v[name] += (1 - beta2) * (slope**2 - v[name])
            weights[name] -= rate * m[name] / (np.sqrt(v[name]) + 1e-8)
        powers[:] = powers * betas

    return update


OPTIMIZERS = {"adam": adam, "gd": shared.gradient_descent}


def knobs() -> options.Parser:
    """Options."""
    parser = options.Parser("by_hand.neural_network", "Trains a fully connected network, by NumPy and MPI.")
    options.add_length(parser, f"without both, {STEPS} steps")
    options.add_batch(parser, 128)
    add = parser.add_argument
    add("--hidden", type=sizes, default="256,256", help="units of the hidden layers, with commas")
    add("--activation", choices=ACTIVATIONS, default="relu", help="between layers")
    add("--init", choices=("he", "published"), default="he", help="deviation of first weights: He's, or 1")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="how gradients become steps")
    add("--learning-rate", type=options.number(1e-9, 1e6), default=0.001, help="length of a step")
    options.add_common(parser)
    return parser


def main(given: argparse.Namespace, ranks: Ranks) -> None:
    """Train, test and tell."""
    data = datasets.flat(given.data_dir)
    images, labels = data.train
    given.steps = given.steps or (None if given.epochs else STEPS)
    course = plan.course(given, len(labels), ranks.size, epochs=1)
    ranks.say(
        f"{LAB}: {ranks.place}\ndata: {len(labels):,} training images of {data.description}; "
        f"{course.steps} steps of {course.batch}; {given.optimizer}, learning rate {given.learning_rate:g}"
    )
    progress = result.Progress(ranks, course, batch=course.batch, unit="images", done=0)
    weights = starts.layers([images.shape[1], *given.hidden, 10], given.seed, given.init)
    update = OPTIMIZERS[given.optimizer](weights, np.full(course.steps, given.learning_rate))
    order = plan.orders(len(labels), course, ranks, seed=given.seed)  # Horovod: each rank has its own samples

    def slopes(step: int) -> tuple[float, starts.Weights]:
        rows = order(step)
        x, y = images[rows] / 255.0, shared.one_hot(labels[rows])
        return gradients(weights, x, y, course.batch, given.activation)

    losses = shared.descend(progress, weights, slopes, update)
    right = shared.accuracy(lambda x: forward(weights, x, given.activation)[-1], data.test)
    reached = {"lab": LAB, "data": data.name, "accuracy": right}
    shared.finish(progress, GOALS[data.name], reached, losses)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with shared.start(LAB, chosen) as all_ranks:
        main(chosen, all_ranks)
