"""What a network has learnt, put to another use: two networks learn alike, one of them has a past.

What it teaches
    Transfer learning. A network is trained on one task; then its last layer is made new, and it learns
    another task from a few examples: first the new layer alone (the others are a fixed feature extractor),
    then all layers (fine-tuning). Beside it a second network, of random weights, takes the same steps with
    the same examples. While only the last layer learns, only its gradient travels between the ranks
    (processes). The lines that distribution needs carry a comment that begins with `Horovod:`.

What you will see
    After some ten seconds the ranks and where they run; half a minute of training on the digits 0 to 4; then
    the accuracy of both networks on 5 to 9, of which there are 20 examples each, every 50 steps. At the end
    a summary, a plot of both curves with some test pictures and what they were taken for, and one line,
    `RESULT {...}`, for programs that compare runs.
    With the defaults the first network names 0.6 of the test pictures, the other one less than 0.5.

    The digits are MNIST's (scikit-learn's where there is none), each somewhere in a field among scraps of
    others: made here, since the pictures that the notebook used cannot be had any more. With --images it
    takes pictures of yours, and with --weights, as the notebook, a CaffeNet that knows ImageNet:
    bvlc_reference_caffenet.caffemodel (244 MB).

What to try
    --examples 5, 100, 1000: from how many on is the past worth nothing? (jobs/sweeps/examples.sh)
    --pretraining 50, 2000: does it help to know 0 to 4 better?
    sbatch jobs/shards.sh imagenette2-160; when it has ended, --images shards-JOB --weights FILE.

The notebook: BVLC/caffe, examples/02-fine-tuning.ipynb. After 200 steps with the last layer its networks
named .500 and .236 of the test pictures, after 200 more with all layers .536 and .392 (chance: .2).
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from labs.caffe import files, net
from labs.labkit import LabError, gradients, optimizers, options, plan, result, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.plan import Course
from labs.labkit.training import Training
from labs.labkit.world import World
from labs.transfer import data as tasks
from labs.transfer import figure, networks
from labs.transfer.networks import Weights

# --- Knobs -------------------------------------------------------------------------------------------------

NETS = ("pretrained", "scratch")
GOALS = {
    "digits": Goal("gap", "at least", 0.1, "of the accuracies on test images; .25 seen, .19 without MNIST"),
    "pictures": Goal("gap", "at least", 0.1, "of the accuracies on test images; the notebook's was .144"),
}
STEPS = 200  # with the last layer, and as many with all, as in the notebook
BATCH = 48  # the notebook's 50, for 2, 3, 4, 6 and 8 ranks
RATES = {"digits": 0.003, "pictures": 0.001}
DECAY = 0.0005  # of weights, per step and learning rate
BETWEEN = 50  # steps between two tests, at most, where that divides their number
PRETRAINED = {"batch": 96, "rate": 0.001, "dropout": 0.25}  # by Adam


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser(
        "transfer_learning", "Trains a network that knows something, and one that does not."
    )
    add, whole = parser.add_argument, options.whole
    add("--steps", type=whole(1), default=STEPS, help="steps of the last layer alone; then as many of all")
    add("--global-batch-size", type=whole(1), default=BATCH, help="samples per step, all ranks together")
    add("--examples", type=whole(1), default=20, help="of each digit to learn from")
    add("--pretraining", type=whole(1), default=400, help="steps on the digits 0 to 4 before")
    add("--learning-rate", type=options.number(1e-9, 1e6), help=".003 for digits, .001 for pictures")
    add("--images", type=Path, metavar="SHARDS", help="pictures as jobs/shards.sh writes them, not digits")
    add("--weights", type=Path, metavar="FILE", help="a .caffemodel of CaffeNet, for --images")
    add("--sha1", type=str.lower, default=net.SHA1, help="of the weights, here of bvlc_reference_caffenet")
    options.add_common(parser)
    return parser


# --- Training ----------------------------------------------------------------------------------------------


def training_step(
    data: Any, weights: Weights, optimizer: Any, step: Any, given: argparse.Namespace
) -> Callable[[Any], Any]:
    """Return what takes one step of both networks with this rank's share of a batch.

    It gives for each network loss and accuracy of the share, the seconds for which it waited for input, and
    those for which it waited for other ranks.
    """

    def learn(images: Any, labels: Any, layers: Callable[[str], bool]) -> Any:
        chosen = {name: variable for name, variable in weights.items() if layers(name)}
        measured, parts = [], []
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(chosen.values()))
            for network in NETS:
                dropout = _Dropout(data.dropped, given.seed, step)
                scores = data.scores(_of(network, weights), images, dropout)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
                )
                right = tf.cast(tf.argmax(scores, axis=1) == labels, tf.float32)
                measured += [loss, tf.reduce_mean(right)]
                parts.append(loss / hvd.size())  # Horovod: this rank's part of the mean over the global batch
            part = tf.add_n(parts)
        # Horovod: the gradients of the parts are added up, of the layers that learn.
        summed, waited = gradients.add_up(tape.gradient(part, list(chosen.values())))
        # As Caffe's layers have it: biases learn twice as fast, and weights decay.
        ruled = [
            2 * gradient if name.endswith("_bias") else gradient + DECAY * variable
            for gradient, (name, variable) in zip(summed, chosen.items(), strict=True)
        ]
        optimizer.apply_gradients(zip(ruled, chosen.values(), strict=True), global_step=step)
        return [tf.cast(value, tf.float64) for value in (*measured, waited)]

    def take(rows: Any) -> Any:
        images, labels, fed = data.take(rows)
        *measured, waited = tf.cond(
            step < given.steps,
            lambda: learn(images, labels, lambda name: "/last" in name),
            lambda: learn(images, labels, lambda name: True),  # noqa: ARG005
        )
        return *measured, fed, waited

    return take


class _Dropout:
    """Leaves a *share* of a layer's values out: others at each step and in each layer, the same by *seed*."""

    def __init__(self, share: float, seed: int, step: Any) -> None:
        self.share, self.step, self.layers = share, step, 0
        self.seed = seed + 1_000_003 * hvd.rank()  # Horovod: others on each rank

    def __call__(self, layer: Any) -> Any:
        self.layers += 1
        if not self.share:
            return layer
        seed = [self.seed, 8 * tf.cast(self.step, tf.int32) + self.layers]
        return tf.nn.experimental.stateless_dropout(layer, self.share, seed)


def _of(network: str, weights: Weights) -> Weights:
    """Return the weights of one *network*."""
    return {name.partition("/")[2]: var for name, var in weights.items() if name.startswith(f"{network}/")}


def pretrain(given: argparse.Namespace, ranks: World, data: tasks.Fields, home: Path | None) -> Weights:
    """Train a network on the digits 0 to 4, or take it from the run that is continued."""
    images, labels = (tf.constant(part) for part in data.source)
    weights, step = networks.small(given.seed), tf.Variable(0, dtype=tf.int64)
    variables = list(weights.values())
    share = math.ceil(PRETRAINED["batch"] / ranks.size)
    samples = len(data.source[1])
    per_epoch = plan.steps_per_epoch(samples, share, ranks.size)
    course = Course(share, share * ranks.size, given.pretraining, per_epoch, between=given.pretraining)
    optimizer = optimizers.make("adam", np.full(course.steps, PRETRAINED["rate"], np.float32), step)

    def take(rows: Any) -> Any:
        dropout = _Dropout(PRETRAINED["dropout"], given.seed, step)
        digits = tf.gather(labels, rows)
        with tf.GradientTape() as tape:
            scores = networks.small_scores(weights, tf.gather(images, rows), dropout)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=digits, logits=scores)
            )
            part = loss / hvd.size()  # Horovod: this rank's part of the mean over the global batch
        summed, waited = gradients.add_up(tape.gradient(part, variables))  # Horovod: and their sum
        optimizer.apply_gradients(zip(summed, variables, strict=True), global_step=step)
        return loss, tf.reduce_mean(tf.cast(tf.argmax(scores, axis=1) == digits, tf.float32)), waited

    training = Training(
        ranks,
        given,
        "transfer_learning",
        f"{data.name}, 0 to 4",
        course,
        take,
        state={"weights": weights, "optimizer": optimizer, "step": step},
        settings={"seed": given.seed, "pretraining": given.pretraining},
        counted="steps",
        home=home,
        part="pretraining",
    )
    training.run(
        lambda turn: _rows(plan.orders(samples, course, ranks, seed=given.seed), course, turn),
        lambda: float(np.mean(training.history["accuracy"][-50:] or [math.nan])),
        lambda loss, value: f"of pretraining: loss {loss:.4f}  training accuracy {value:.4f}",
    )
    return weights


def _rows(at: Callable[[int], Any], course: Course, turn: int) -> Any:
    """Return this rank's samples of the steps before a test, (between, share)."""
    return np.stack([at(step) for step in range(turn * course.between, (turn + 1) * course.between)])


def pair(given: argparse.Namespace, ranks: World, data: Any, home: Path | None) -> Weights:
    """Weights of both networks, by NETWORK/LAYER.

    Raises:
        LabError: the weights are no CaffeNet's.
    """
    if isinstance(data, tasks.Fields):
        known = pretrain(given, ranks, data, home)
        known["last"].assign(tf.zeros_like(known["last"]))  # its digits are others now
        known["last_bias"].assign(tf.zeros_like(known["last_bias"]))
        both = {"pretrained": known, "scratch": networks.small(given.seed + 1)}
    else:
        blank = net.random(given.seed + 1)
        # Horovod: 244 MB are read once; Training lets them travel from rank 0 to the others.
        read = (
            net.fitting(files.read_model(given.weights, given.sha1), given.weights)
            if ranks.rank == 0
            else blank
        )
        both = {
            "pretrained": networks.caffenet(read, len(data.classes)),
            "scratch": networks.caffenet(blank, len(data.classes)),
        }
    return {f"{network}/{name}": var for network, some in both.items() for name, var in some.items()}


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, test, and tell."""
    if bool(given.images) != bool(given.weights):
        raise LabError(
            "--images and --weights go together: pictures of yours, and the weights of a CaffeNet that knows "
            f"ImageNet (bvlc_reference_caffenet.caffemodel, sha1 {net.SHA1}); without both it takes digits"
        )
    share = plan.share(0, given.global_batch_size, ranks.size)
    data = tasks.Pictures(given, ranks) if given.images else tasks.Fields(given, ranks)
    per_epoch = plan.steps_per_epoch(data.samples, share, ranks.size)
    steps = 2 * given.steps
    between = next((n for n in range(BETWEEN, 9, -1) if given.steps % n == 0), given.steps)
    course = Course(share, share * ranks.size, steps, per_epoch, between)
    home = result.directory("transfer_learning", given.results) if ranks.rank == 0 else None
    ranks.say(
        f"transfer_learning: {ranks.place}\ndata: {data.description}\n"
        f"{given.steps} steps of {course.batch} with the last layer, {given.steps} with all"
    )
    weights = pair(given, ranks, data, home)
    step = tf.Variable(0, dtype=tf.int64)
    rate = given.learning_rate or RATES[data.kind]
    optimizer = optimizers.make("momentum", np.full(steps, rate, np.float32), step)
    kept = ("steps", "examples", "pretraining", "seed")
    training = Training(
        ranks,
        given,
        "transfer_learning",
        data.name,
        course,
        training_step(data, weights, optimizer, step, given),
        state={"weights": weights, "optimizer": optimizer, "step": step},
        settings={name: getattr(given, name) for name in kept} | {"learning_rate": rate},
        measures=("loss", "accuracy", "scratch_loss", "scratch_accuracy", "input_s"),
        counted="steps",
        home=home,
    )
    data.begin(training.done)
    scores = {
        network: tf.function(
            lambda images, network=network: data.scores(_of(network, weights), images, lambda layer: layer),
            autograph=False,
        )
        for network in NETS
    }

    def told(loss: float, value: list[float]) -> str:
        stage = "last layer" if training.done <= given.steps else "all layers"
        fed = np.mean(training.history["input_s"][-course.between :]) * training.progress.rate / course.batch
        waited = f"; {fed:.0%} of the time waiting for pictures" if given.images else ""
        return f"{stage}: loss {loss:.4f}  test accuracy {value[0]:.4f}, from scratch {value[1]:.4f}{waited}"

    try:
        training.run(
            lambda turn: _rows(plan.orders(data.samples, course, ranks, seed=given.seed), course, turn),
            lambda: [round(data.tested(score), 6) for score in scores.values()],
            told,
        )
    except tf.errors.DataLossError as error:
        raise LabError(f"a shard in {given.images} is damaged ({error.message}): make them anew") from error
    if ranks.rank == 0:
        conclude(training, data, given, scores)


def conclude(training: Training, data: Any, given: argparse.Namespace, scores: dict[str, Any]) -> None:
    """Draw and tell (rank 0)."""
    tests = dict(training.history["test"])
    stages = {"last layer alone": tests[given.steps], "then all layers": tests[2 * given.steps]}
    print(f"  {'test accuracy':<18} {'pretrained':>10} {'scratch':>8}")
    for stage, (pretrained, scratch) in stages.items():
        print(f"  {stage:<18} {pretrained:>10.4f} {scratch:>8.4f}")
    images, labels = data.shown()
    guesses = [np.argmax(score(images), axis=1) for score in scores.values()]
    shown = [
        (image, *[data.classes[n] for n in names])
        for image, *names in zip(images, labels, *guesses, strict=True)
    ]
    sizes = [4 * math.prod(v.shape) for name, v in training.state["weights"].items() if "/last" in name]
    training.finish(
        GOALS[data.kind],
        {
            "gap": round(pretrained - scratch, 6),
            "accuracy": pretrained,
            "scratch_accuracy": scratch,
            "last_layer": dict(zip(NETS, stages["last layer alone"], strict=True)),
            "examples": data.examples,
            "last_layer_gradient_bytes": sum(sizes),
            "input_s": round(sum(training.history["input_s"]), 3),
        },
        lambda file, title, history, _: figure.draw(file, title, history, given.steps, shown),
    )


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
