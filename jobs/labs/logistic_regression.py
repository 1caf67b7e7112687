"""Multinomial logistic regression on handwritten digits: one layer and softmax; by one process or by many.

What it teaches
    What a batch is worth. All digits begin with equal probability; each step shifts weights by the gradient
    of the cross-entropy, averaged over a batch. Many ranks with small shares take the very steps of one rank
    with the whole batch; many ranks with whole batches of their own take fewer steps, of larger batches, and
    reach the same only because the learning rate grows with the batch (--scaling linear).

What you will see
    After some ten seconds, after each of 25 epochs, cost and accuracy on the test images. With the defaults a
    cost of .3337 and an accuracy of .9137 (.888 on the first 3,000, which the notebook counts), and a
    picture.

What to try
    --global-batch-size 100 with 1, 2 or 4 ranks: are the numbers the same? How long does each epoch take?
    --batch-size 100 with 1, 2 or 4 ranks, --scaling linear and none: what does the learning rate do?
    jobs/sweeps/batch_sizes.sh: from all images at once to one after the other

The notebook: TensorFlow-Examples, 2_BasicModels/logistic_regression. `labs/by_hand/logistic_regression.py` is
the same program without TensorFlow and Horovod.
"""

import argparse
from typing import Any

import numpy as np

from labs.labkit import accuracy, datasets, gradients, optimizers, options, plan, starts, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.training import Training
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

GOALS = {
    "mnist": Goal(
        "accuracy", "at least", 0.9117, "on all test images; NumPy reached .9137 by the same recipe"
    ),
    "digits": Goal("accuracy", "at least", 0.9, "on all test images; 1 and 2 ranks reached .91 and more"),
}
EPOCHS = {"mnist": 25, "digits": 200}
USUAL_BATCH = 100  # images per step for which the learning rate holds
FIRST = 3000  # test images that the notebook counts


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("logistic_regression", "Trains one layer with softmax on MNIST.")
    options.add_length(parser, "25 for MNIST, 200 for digits")
    options.add_batch(parser, USUAL_BATCH)
    parser.add_argument(
        "--optimizer", choices=optimizers.CLASSES, default="gd", help="how gradients become steps"
    )
    parser.add_argument(
        "--learning-rate", type=options.number(1e-9, 1e6), default=0.01, help="for 100 images per step"
    )
    parser.add_argument(
        "--scaling", choices=plan.RULES, default="linear", help="growth of the learning rate with the batch"
    )
    options.add_common(parser)
    return parser


# --- Training ----------------------------------------------------------------------------------------------


def logits(weights: dict[str, Any], pixels: Any) -> Any:
    """Scores of the ten digits, (n, 10), for *pixels* (n, 784)."""
    return pixels @ weights["w1"] + weights["b1"]


def training_step(weights: dict[str, Any], optimizer: Any, step: Any, data: Any) -> Any:
    """Return what takes one step with some images of *data*, by their indices: this rank's share of a batch.

    It gives cost and accuracy of the share, and the seconds for which it waited for other ranks.
    """
    images, labels = (tf.constant(part) for part in data.train)
    variables = list(weights.values())

    def take(rows: Any) -> Any:
        pixels = tf.cast(tf.gather(images, rows), tf.float64) / 255
        digits = tf.cast(tf.gather(labels, rows), tf.int32)
        with tf.GradientTape() as tape:
            scores = logits(weights, pixels)
            cost = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=digits, logits=scores)
            )
            part = cost / hvd.size()  # Horovod: this rank's part of the mean over the global batch
        summed, waited = gradients.add_up(tape.gradient(part, variables))
        optimizer.apply_gradients(zip(summed, variables, strict=True), global_step=step)
        right = tf.argmax(scores, axis=1, output_type=tf.int32) == digits
        return cost, tf.reduce_mean(tf.cast(right, tf.float64)), waited

    return take


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, test, and tell."""
    data = datasets.flat(given.data_dir)
    samples = len(data.train[1])
    course = plan.course(given, samples, ranks.size, epochs=EPOCHS[data.name])
    rates = plan.learning_rates(
        given.learning_rate,
        growth=course.batch / USUAL_BATCH,
        rule=given.scaling,
        warmup=0,
        steps=course.steps,
    ).astype(np.float64)
    ranks.say(
        f"logistic_regression: {ranks.place}\n"
        f"data: {samples:,} training images of {data.description}; {course.steps} steps of {course.batch}\n"
        f"optimizer: {given.optimizer}, learning rate {rates[-1]:.5f}"
    )
    weights = {name: tf.Variable(value) for name, value in starts.zeros(data.train[0].shape[1], 10).items()}
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.make(given.optimizer, rates, step)
    score = tf.function(
        lambda images: logits(weights, tf.cast(images, tf.float64) / 255),
        input_signature=[tf.TensorSpec([None, data.train[0].shape[1]], tf.uint8)],
        autograph=False,
    )
    kept = ("optimizer", "learning_rate", "scaling", "seed")
    training = Training(
        ranks,
        given,
        "logistic_regression",
        data.name,
        course,
        training_step(weights, optimizer, step, data),
        state={"weights": weights, "optimizer": optimizer, "step": step},
        settings={name: getattr(given, name) for name in kept},
    )
    training.run(
        lambda epoch: plan.order(samples, course.share, ranks, seed=given.seed, epoch=epoch),
        lambda: accuracy.share(score, data.test, ranks),
        lambda cost, right: f"cost {cost:.9f}  test accuracy {right:.4f}",
    )
    goal, history = GOALS[data.name], training.history
    first = accuracy.share(score, (data.test[0][:FIRST], data.test[1][:FIRST]), ranks)
    training.finish(
        goal,
        {
            "learning_rate": round(float(rates[-1]), 6),
            "optimizer": given.optimizer,
            "accuracy": history["test"][-1][1],
            f"accuracy_first_{FIRST}": round(first, 6),
            "cost": float(np.mean(history["loss"][-course.per_epoch :])),
        },
    )


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
