"""A convolutional network that reads handwritten digits, trained by one process or by many.

What it teaches
    Data-parallel training. Every rank (process) holds the same network. At each step every rank
    computes the gradient on its own share of the batch, Horovod adds the gradients up, and all ranks
    take the same step. The lines that this needs carry a comment that begins with `Horovod:`;
    without them this is an ordinary TensorFlow program.

What you will see
    After some ten seconds the ranks and where they run; then, every few seconds, the loss, the images per
    second and the time left; after each epoch the accuracy on the 10,000 test images. At the end a
    summary, a plot of both curves and one line, `RESULT {...}`, for programs that compare runs.
    With the defaults the accuracy is 0.98 or more on 1, 2 or 3 ranks.

What to try
    sbatch -N 1 jobs/cnn_horovod.sh; then -N 2, -N 3: how do images/s grow, in total and per rank?
    --batch-size 32, 512: fewer steps or better steps?
    --optimizer gd, momentum, rmsprop: which is as good after one epoch?
    --init published: as the workshop's notebook started its weights. Why is the first loss so large?

The network is the workshop's (TensorFlow-Examples, convolutional_network_raw): two convolutions of
5 x 5 with 32 and 64 channels, each followed by pooling, 1024 neurons, dropout, softmax over 10 digits;
3,274,634 weights. It starts from He's initialisation, under which training is stable from the first step.
"""

import argparse
import math
import time
from typing import Any

import numpy as np

from labs.labkit import checkpoint, datasets, options, plan, result, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

EPOCHS = {"mnist": 1, "digits": 20}  # usual length of a training
GOALS = {
    "mnist": Goal("accuracy", "at least", 0.98, "on all test images; the workshop published 0.977 on 256"),
    "digits": Goal("accuracy", "at least", 0.97, "on all test images; 1 to 3 ranks reached 0.986 and more"),
}

# The workshop's optimizers: the learning rate that suits each, and its class in tf.compat.v1.train.
OPTIMIZERS: dict[str, tuple[float, str, dict[str, float]]] = {
    "gd": (0.05, "GradientDescentOptimizer", {}),
    "momentum": (0.02, "MomentumOptimizer", {"momentum": 0.9}),
    "rmsprop": (0.0005, "RMSPropOptimizer", {}),
    "adam": (0.001, "AdamOptimizer", {}),
}
USUAL_BATCH = 128  # images per step for which these learning rates hold


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("cnn", "Trains a convolutional network on MNIST, on one rank or on many.")
    add, whole, number = parser.add_argument, options.whole, options.number
    add("--epochs", type=whole(1), help="times through the training images; 1 for MNIST, 20 for digits")
    add("--steps", type=whole(1), help="train for so many steps instead")
    add("--batch-size", type=whole(1), default=128, help="images per rank and step")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="how gradients become steps")
    add("--learning-rate", type=number(1e-9, 1e6), help="for 128 images per step; .001 for adam, and so on")
    add("--scaling", choices=plan.RULES, default="sqrt", help="growth of the learning rate with the batch")
    add("--warmup", type=whole(0), default=50, help="steps in which the learning rate grows to that")
    add("--dropout", type=number(0, 1), default=0.25, help="share of neurons left out in training")
    add("--init", choices=("he", "published"), default="he", help="deviation of first weights: He's, or 1")
    options.add_common(parser)
    return parser


# --- Data --------------------------------------------------------------------------------------------------


def batches(images: Any, labels: Any, rows: Any) -> Any:
    """Pipeline of some steps: images, scaled to 0..1, and labels; *rows* (steps, batch) says which."""

    def pick(batch: Any) -> tuple[Any, Any]:
        drawn = tf.gather(images, batch), tf.gather(labels, batch)
        return tf.cast(drawn[0], tf.float32) / 255, tf.cast(drawn[1], tf.int32)

    calm = tf.data.Options()
    calm.autotune.enabled = False  # its thread sleeps longer and longer, and the end of the data waits for it
    return tf.data.Dataset.from_tensor_slices(rows).map(pick).prefetch(2).with_options(calm)


# --- Model -------------------------------------------------------------------------------------------------


def first_weights(seed: int, init: str) -> dict[str, Any]:
    """Weights by name, drawn with deviation sqrt(2 / inputs) (He et al., arXiv:1502.01852), or 1."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        deviation = math.sqrt(2 / math.prod(shape[:-1])) if init == "he" else 1.0
        return tf.Variable(random.normal(0, deviation, shape).astype(np.float32))

    def bias(size: int) -> Any:
        return tf.Variable(tf.zeros(size)) if init == "he" else normal(size)

    return {
        "conv1": normal(5, 5, 1, 32),
        "conv1_bias": bias(32),
        "conv2": normal(5, 5, 32, 64),
        "conv2_bias": bias(64),
        "full": normal(7 * 7 * 64, 1024),
        "full_bias": bias(1024),
        "out": normal(1024, 10),
        "out_bias": bias(10),
    }


def logits(weights: dict[str, Any], images: Any, dropout: float = 0.0, seed: Any = None) -> Any:
    """Scores of the ten digits, (n, 10), for *images* (n, 28, 28, 1)."""
    layer = images
    for name in ("conv1", "conv2"):  # 28 x 28 x 1 -> 14 x 14 x 32 -> 7 x 7 x 64
        layer = tf.nn.relu(tf.nn.conv2d(layer, weights[name], 1, "SAME") + weights[f"{name}_bias"])
        layer = tf.nn.max_pool2d(layer, 2, 2, "SAME")
    layer = tf.reshape(layer, [-1, 7 * 7 * 64])
    layer = tf.nn.relu(layer @ weights["full"] + weights["full_bias"])
    if dropout:
        layer = tf.nn.experimental.stateless_dropout(layer, dropout, seed)
    return layer @ weights["out"] + weights["out_bias"]


# --- Training ----------------------------------------------------------------------------------------------


def training_step(weights: dict[str, Any], optimizer: Any, step: Any, dropout: float, seed: int) -> Any:
    """Return a compiled function that takes one step, given this rank's share of a batch.

    It returns loss and accuracy of the share.
    """
    variables = list(weights.values())
    rank = hvd.rank()

    @tf.function
    def train(images: Any, labels: Any) -> Any:
        left_out = [seed + 1_000_003 * rank, tf.cast(step, tf.int32)]  # Horovod: other neurons on each rank
        with tf.GradientTape() as tape:
            scores = logits(weights, images, dropout, left_out)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
            loss = tf.reduce_mean(losses)
            part = loss / hvd.size()  # Horovod: this rank's part of the mean over the global batch
        # Horovod: the gradients of the parts are added up; to average those of `loss` costs a pass more.
        tape = hvd.DistributedGradientTape(tape, op=hvd.Sum)
        gradients = tape.gradient(part, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True), global_step=step)
        right = tf.argmax(scores, axis=1, output_type=tf.int32) == labels
        return tf.stack([loss, tf.reduce_mean(tf.cast(right, tf.float32))])

    return train


def accuracy(score: Any, test: tuple[Any, Any], ranks: World) -> float:
    """Share of the *test* images in which the highest *score* is that of the right digit."""
    images, labels = (part[ranks.rank :: ranks.size] for part in test)  # Horovod: each rank reads its part
    right = 0
    for begin in range(0, len(images), 500):
        chunk = slice(begin, begin + 500)
        right += int(np.sum(np.argmax(score(images[chunk]), axis=1) == labels[chunk]))
    # Horovod: counts are added up; an average of accuracies would be wrong where the parts differ in size.
    return int(hvd.allreduce(tf.constant(right), op=hvd.Sum)) / len(test[1])


def program(given: argparse.Namespace, rates: Any) -> tuple[dict[str, Any], Any, Any, Any, Any]:
    """Return weights, optimizer, step, and what is compiled: a step of training, scores of images."""
    _, method, parameters = OPTIMIZERS[given.optimizer]
    weights = first_weights(given.seed, given.init)
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = getattr(tf.compat.v1.train, method)(lambda: tf.gather(rates, step), **parameters)
    train_step = training_step(weights, optimizer, step, given.dropout, given.seed)
    share = [tf.TensorSpec([given.batch_size, 28, 28, 1]), tf.TensorSpec([given.batch_size], tf.int32)]
    train_step.get_concrete_function(*share)  # compiles it, and makes the optimizer's variables
    score = tf.function(
        lambda images: logits(weights, tf.cast(images, tf.float32) / 255),
        input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.uint8)],
    )
    return weights, optimizer, step, train_step, score


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, test, and tell."""
    begun = time.monotonic()
    data = datasets.handwritten(given.data_dir)
    goal = GOALS[data.name]
    samples = len(data.train[1])
    global_batch = given.batch_size * ranks.size
    per_epoch = plan.steps_per_epoch(samples, given.batch_size, ranks.size)
    steps = given.steps or (given.epochs or EPOCHS[data.name]) * per_epoch
    rates = plan.learning_rates(
        given.learning_rate or OPTIMIZERS[given.optimizer][0],
        # Horovod: N ranks make the batch N times larger; its gradient is less noisy, so the step may grow.
        growth=global_batch / USUAL_BATCH,
        rule=given.scaling,
        warmup=given.warmup,
        steps=steps,
    )
    ranks.say(
        f"cnn: {ranks.place}\n"
        f"data: {samples:,} training images of {data.description}, {global_batch} per step, {steps} steps\n"
        f"optimizer: {given.optimizer}, learning rate {rates[-1]:.5f} after {given.warmup} steps of warm-up",
    )

    weights, optimizer, step, train_step, score = program(given, rates)

    history: dict[str, list[Any]] = {"loss": [], "accuracy": [], "test": []}
    if ranks.rank == 0:  # Horovod: one rank reads and writes the files
        directory = result.directory("cnn", given.results)
        same = {"lab": "cnn", "data": data.name, "global batch": global_batch}
        kept = ("optimizer", "learning_rate", "scaling", "warmup", "dropout", "init", "seed")
        same |= {name: getattr(given, name) for name in kept}
        checkpoints = checkpoint.Checkpoints(
            directory / "checkpoints", same, weights=weights, optimizer=optimizer, step=step
        )
        history = checkpoints.restore(steps) or history
        if history["loss"]:
            ranks.say(f"continuing from step {int(step)} in {directory}")
    # Horovod: all ranks begin with rank 0's weights, optimizer state and step, fresh or from a checkpoint.
    hvd.broadcast_variables([*weights.values(), *optimizer.variables(), step], root_rank=0)

    if int(step) == steps:  # all that was missing is the test: the former run ended between two of them
        final = [steps, accuracy(score, data.test, ranks)]
        history["test"] = [*(earlier for earlier in history["test"] if earlier[0] < steps), final]

    training = [tf.constant(part) for part in data.train]  # once: batches() would copy 47 MB every time
    progress = result.Progress(ranks, steps=steps, batch=global_batch, unit="images", done=int(step))
    while (now := int(step)) < steps:
        epoch, done = divmod(now, per_epoch)
        # Horovod: the ranks stop after so many steps, not seconds: they stop together.
        end = done + min(checkpoint.EVERY - now % checkpoint.EVERY, per_epoch - done, steps - now)
        rows = plan.order(samples, given.batch_size, ranks, seed=given.seed, epoch=epoch)[done:end]
        measured = []
        progress.resume()
        for images, labels in batches(*training, rows):
            measured.append(train_step(images, labels).numpy())
            progress.tick(loss=measured[-1][0])
        progress.pause()
        # Horovod: until here, each rank knows loss and accuracy of its own shares only.
        losses, rights = hvd.allreduce(tf.constant(np.transpose(measured))).numpy().tolist()
        history["loss"] += losses
        history["accuracy"] += rights
        if end == per_epoch or int(step) == steps:
            history["test"].append([int(step), accuracy(score, data.test, ranks)])
            ranks.say(
                f"epoch {epoch + 1}  loss {np.mean(history['loss'][-end:]):.4f}  "
                f"test accuracy {history['test'][-1][1]:.4f}  {progress.rate:,.0f} images/s",
            )
        if ranks.rank == 0 and (int(step) % checkpoint.EVERY == 0 or int(step) == steps):
            checkpoints.save(int(step), history)

    # --- Result --------------------------------------------------------------------------------------------

    if ranks.rank == 0:  # Horovod: the whole history is rank 0's, which alone read the checkpoint
        reached = {
            "lab": "cnn",
            "data": data.name,
            "epochs": round(steps / per_epoch, 3),
            "batch_size": given.batch_size,
            "global_batch_size": global_batch,
            "learning_rate": round(float(rates[-1]), 6),
            "optimizer": given.optimizer,
            "accuracy": round(history["test"][-1][1], 6),
            "floor": goal.bound,
            "loss": round(float(np.mean(history["loss"][-50:])), 6),
            "seconds": round(time.monotonic() - begun, 1),
        }
        result.finish(progress, directory, goal, reached, history)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
