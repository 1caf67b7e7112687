"""A fully connected network that reads handwritten digits; trained by one process or by many.

What it teaches
    What layers need to be worth having. Without an activation between them two hidden layers compute what one
    layer could: the network as the workshop published it is linear, starts from weights of N(0, 1) with a
    learning rate of .1, and reaches .82 to .89 (--as-published). With ReLU, He's start and a rate of .001 it
    reaches .96. And how to read errors: on training images (bias) and on images never seen (variance).

What you will see
    After some ten seconds the loss, images per second and time left; after each epoch the accuracy on the
    test images. At the end the error on training, validation and test images with what that means, the first
    ten test images with what the network takes them for, and curves.

What to try
    --as-published; --as-published --activation relu: why is the activation alone worse?
    --as-published on N ranks: with --global-batch-size 128, or a step sees N times as many images
    --hidden 16, 1024, 256,256,256: more units, more layers. --activation tanh, sigmoid, linear
    jobs/sweeps/hidden_units.sh, activations.sh, layers.sh: all of that in one table and one picture

The notebook: TensorFlow-Examples, 3_NeuralNetworks/neural_network_raw. `labs/by_hand/neural_network.py` is
the same program without TensorFlow and Horovod.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import accuracy, datasets, gradients, optimizers, options, plan, plot, starts, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.training import Training
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

STEPS = 500  # as published
GOALS = {
    "mnist": Goal("accuracy", "at least", 0.96, "on all test images, with ReLU and He's start"),
    "digits": Goal("accuracy", "at least", 0.95, "on all test images; 1 and 2 ranks reached .96 and more"),
    "published": Goal(
        "accuracy", "at least", 0.82, "on MNIST's test images; .82 to .89 by seed, .8729 published"
    ),
}
ACTIVATIONS = ("relu", "tanh", "sigmoid", "linear")
HIGH = 0.05  # of images: an error, or a difference between errors, that calls for something to be done


def sizes(text: str) -> list[int]:
    """Argument type: units of each hidden layer, with commas between them."""
    return [options.whole(1)(part) for part in text.split(",")]


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("neural_network", "Trains a fully connected network on MNIST.")
    add = parser.add_argument
    options.add_length(parser, f"without both, {STEPS} steps")
    options.add_batch(parser, 128)
    add("--hidden", type=sizes, default="256,256", help="units of the hidden layers, with commas")
    add("--activation", choices=ACTIVATIONS, default="relu", help="between layers")
    add("--init", choices=("he", "published"), default="he", help="deviation of first weights: He's, or 1")
    add("--optimizer", choices=optimizers.CLASSES, default="adam", help="how gradients become steps")
    add("--learning-rate", type=options.number(1e-9, 1e6), default=0.001, help="length of a step")
    meaning = "as the notebook: no activation, first weights of N(0, 1), learning rate .1"
    parser.add_published(meaning, init="published", activation="linear", learning_rate=0.1)
    options.add_common(parser)
    return parser


# --- Model and training ------------------------------------------------------------------------------------


def logits(weights: dict[str, Any], pixels: Any, activation: str) -> Any:
    """Scores of the ten digits, (n, 10), for *pixels* (n, 784)."""
    layers = len(weights) // 2
    layer = pixels
    for number in range(1, layers + 1):
        layer = layer @ weights[f"w{number}"] + weights[f"b{number}"]
        if number < layers and activation != "linear":
            layer = getattr(tf.nn, activation)(layer)
    return layer


def training_step(weights: dict[str, Any], optimizer: Any, step: Any, data: Any, activation: str) -> Any:
    """Return what takes one step with some images of *data*, by their indices: this rank's share of a batch.

    It gives loss and accuracy of the share, and the seconds for which it waited for other ranks.
    """
    images, labels = (tf.constant(part) for part in data.train)
    variables = list(weights.values())

    def take(rows: Any) -> Any:
        pixels = tf.cast(tf.gather(images, rows), tf.float32) / 255
        digits = tf.cast(tf.gather(labels, rows), tf.int32)
        with tf.GradientTape() as tape:
            scores = logits(weights, pixels, activation)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=digits, logits=scores)
            )
            part = loss / hvd.size()  # Horovod: this rank's part of the mean over the global batch
        summed, waited = gradients.add_up(tape.gradient(part, variables))
        optimizer.apply_gradients(zip(summed, variables, strict=True), global_step=step)
        right = tf.argmax(scores, axis=1, output_type=tf.int32) == digits
        return loss, tf.reduce_mean(tf.cast(right, tf.float32)), waited

    return take


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, test, and tell."""
    data = datasets.flat(given.data_dir)
    samples = len(data.train[1])
    given.steps = given.steps or (None if given.epochs else STEPS)
    course = plan.course(given, samples, ranks.size, epochs=1)
    shape = [data.train[0].shape[1], *given.hidden, 10]
    ranks.say(
        f"neural_network: {ranks.place}\n"
        f"data: {samples:,} training images of {data.description}; {course.steps} steps of {course.batch}\n"
        f"layers: {'-'.join(map(str, shape))}, {given.activation}; {given.optimizer}, learning rate "
        f"{given.learning_rate:g}"
    )
    if given.activation == "linear":
        ranks.say(
            "without an activation all layers together are one linear map: they add weights, and no power"
        )
    first = starts.layers(shape, given.seed, given.init)
    weights = {name: tf.Variable(value.astype(np.float32)) for name, value in first.items()}
    step = tf.Variable(0, dtype=tf.int64)
    rates = np.full(course.steps, given.learning_rate, np.float32)
    optimizer = optimizers.make(given.optimizer, rates, step)
    score = tf.function(
        lambda images: logits(weights, tf.cast(images, tf.float32) / 255, given.activation),
        input_signature=[tf.TensorSpec([None, shape[0]], tf.uint8)],
        autograph=False,
    )
    kept = ("hidden", "activation", "init", "optimizer", "learning_rate", "seed")
    training = Training(
        ranks,
        given,
        "neural_network",
        data.name,
        course,
        training_step(weights, optimizer, step, data, given.activation),
        state={"weights": weights, "optimizer": optimizer, "step": step},
        settings={name: getattr(given, name) for name in kept},
    )
    training.run(
        lambda epoch: plan.order(samples, course.share, ranks, seed=given.seed, epoch=epoch),
        lambda: accuracy.share(score, data.test, ranks),
    )
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    errors = {name: round(1 - accuracy.share(score, part, ranks), 6) for name, part in parts.items()}
    ranks.say(verdict(errors))
    shown = data.test[0][:10]
    guesses = np.argmax(score(shown), axis=1)
    labels = data.test[1][:10]
    ranks.say(f"first test images (digits.png): labels {labels.tolist()}, predictions {guesses.tolist()}")
    training.finish(
        GOALS["published" if given.as_published and data.name == "mnist" else data.name],
        {
            "learning_rate": given.learning_rate,
            "optimizer": given.optimizer,
            "hidden": given.hidden,
            "activation": given.activation,
            "accuracy": round(1 - errors["test"], 6),
            "errors": errors,
            "loss": float(np.mean(training.history["loss"][-50:])),
        },
        partial(draw, (shown, labels, guesses)),
    )


def verdict(errors: dict[str, float]) -> str:
    """Return *errors* on training, validation and test images as the workshop's table, and what they mean.

    Bias is what training leaves above the error of people; variance, what unseen images add to that.
    """
    means = {
        (True, True): "high bias and high variance: a larger network or longer training, and more images",
        (
            True,
            False,
        ): "high bias: it errs on the very images it learned; a larger network or longer training",
        (False, True): "high variance: it knows its images by heart; more images, or regularization",
        (False, False): "low bias, low variance: it learned, and what it learned holds for unseen images",
    }
    bias, variance = errors["training"], errors["validation"] - errors["training"]
    shown = {"human": "about 0%"} | {name: f"{error:.2%}" for name, error in errors.items()}
    rows = [f"  {name + ' error':<17} {error:>8}" for name, error in shown.items()]
    return "\n".join([*rows, f"  {means[bias > HIGH, variance > HIGH]} (high: above {HIGH:.0%})"])


def draw(shown: tuple[Any, Any, Any], file: Path, title: str, history: dict[str, Any], goal: Goal) -> None:
    """Draw the curves; beside them, as digits.png, *shown*: images, labels, what they were taken for."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    plot.curves(file, title, history, goal)
    figure = Figure(figsize=(10, 1.6), dpi=150, layout="constrained")
    for axes, image, label, guess in zip(figure.subplots(1, len(shown[0])), *shown, strict=True):
        axes.imshow(image.reshape(28, 28), cmap="gray_r")
        wrong = "" if guess == label else f", not {label}"
        axes.set_title(f"{guess}{wrong}", color=plot.RED if wrong else plot.BLUE)
        axes.set_axis_off()
    figure.suptitle("the first ten test images, with predictions", fontsize=9, color=plot.INK)
    figure.savefig(file.with_name("digits.png"))


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
