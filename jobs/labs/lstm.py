"""An LSTM that reads Shakespeare word by word and guesses the next one, trained by one process or by many.

What it teaches
    A recurrent network: what it has read is carried along in its memory, from word to word. Training it as
    the convolutional network is trained, data-parallel: every rank (process) reads its rows of each batch,
    Horovod adds the gradients up. What is new: the memory is each rank's own; the embedding's gradient, of
    which a batch touches few rows, travels whole; gradients are clipped, after they were added up. The
    lines that this needs carry a comment that begins with `Horovod:`.

What you will see
    After some ten seconds the ranks and where they run; then, every few seconds, the loss, the words
    (tokens) per second and the time left; after each epoch the perplexity, which is between how many
    words the network hesitates, and what it writes after three beginnings. At the end a summary, a plot
    of the loss against the words read, and one line, `RESULT {...}`, for programs that compare runs.
    With the defaults the loss is 6.7 after one epoch of the complete works, 5.8 after ten. Without them in
    the data directory the lab learns 31 sonnets, and in the end knows them nearly by heart.

What to try
    sbatch -N 1 jobs/lstm_horovod.sh; then -N 2: how do tokens/s grow? And the loss after as many words?
    -N 4: an epoch has 47 steps then. Is the learning rate, four times as large, still good for it?
    --global-batch-size 100: the same training on any number of ranks. What does it cost?
    --epochs 10, as the notebook: the sentences get better, though the perplexity is still above 300.
    --clip .1, 1: how often is the gradient cut (the plot shows it), and why does Adam hardly care?
    --text FILE: a text of your own.

The network is the workshop's (tensorflow_cookbook, 03_implementing_lstm): an embedding of 128 numbers a
word, BasicLSTMCell of 128, softmax over all words; Adam, gradients clipped to a norm of 4.5. As there, the
memory is carried from batch to batch though the batches are shuffled, a row's last word is followed by its
first, and there is no text to test with: the loss is that of training.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labs.labkit import gradients, optimizers, options, plan, plot, words, world
from labs.labkit.goal import Goal
from labs.labkit.lazy import hvd, tf
from labs.labkit.training import Training
from labs.labkit.words import Text
from labs.labkit.world import World

# --- Knobs -------------------------------------------------------------------------------------------------

EPOCHS = {"shakespeare": 1, "sonnets": 150}  # usual length of a training; 10 for a text of your own
GOALS = {
    "shakespeare": Goal(
        "loss", "at most", 6.85, "of the last 250,000 words, as in the notebook's plot; on 1 and 2 ranks"
    ),
    "sonnets": Goal(
        "loss", "at most", 0.5, "of the last 250,000 words, known by heart; 1 and 2 ranks reached 0.22"
    ),
}

RATE = 0.001
USUAL_BATCH = 100  # rows per step for which this learning rate holds
LENGTH = 50  # words per row
SIZE = 128  # numbers by which a word is embedded, and numbers in each half of the memory
RECENT = 250_000  # words of which the loss is the result: the notebook's last 50 steps
BEGINNINGS = ("thou art more", "to be or not to", "wherefore art thou")
MOST = 10  # words written after each
PAUSE = 50  # steps, after which it writes with the next end of an epoch


def knobs() -> options.Parser:
    """Options of this lab."""
    parser = options.Parser("lstm", "Trains an LSTM on the words of a text, on one rank or on many.")
    add, whole, number = parser.add_argument, options.whole, options.number
    options.add_length(parser, "1 for the complete works, 150 for the sonnets, 10 for a text of your own")
    options.add_batch(parser, USUAL_BATCH)
    add("--learning-rate", type=number(1e-9, 1e6), default=RATE, help="for 100 rows of 50 words per step")
    add("--scaling", choices=plan.RULES, default="linear", help="growth of the learning rate with the batch")
    add("--clip", type=number(1e-9, 1e9), default=4.5, help="largest norm that a step's gradient may have")
    add("--text", type=Path, help="a text in UTF-8 to learn (default: Shakespeare, from the data directory)")
    add("--rare", type=whole(0), help="words seen so often or less are unknown (default: 5; sonnets: 0)")
    options.add_common(parser)
    return parser


# --- Model -------------------------------------------------------------------------------------------------


def first_weights(seed: int, vocabulary: int) -> dict[str, Any]:
    """Weights by name: as in the notebook N(0, 1) for words, Glorot's uniform for the cell, 0 for biases."""
    random = np.random.default_rng(seed)
    limit = math.sqrt(6 / (2 * SIZE + 4 * SIZE))
    first = {
        "embedding": random.normal(0, 1, (vocabulary, SIZE)),
        "cell": random.uniform(-limit, limit, (2 * SIZE, 4 * SIZE)),
        "cell_bias": np.zeros(4 * SIZE),
        "out": random.normal(0, 1, (vocabulary, SIZE)),
        "out_bias": np.zeros(vocabulary),
    }
    return {name: tf.Variable(values.astype(np.float32)) for name, values in first.items()}


def cell(weights: dict[str, Any], word: Any, kept: Any, shown: Any) -> tuple[Any, Any]:
    """Read a *word* (n, 128) of each row: from what the memory *kept* and *shown* before, what it does now.

    TensorFlow 1's BasicLSTMCell: its order of gates, and 1 added to the gate that keeps (Jozefowicz et al.,
    "An Empirical Exploration of Recurrent Network Architectures").
    """
    gates = tf.concat([word, shown], 1) @ weights["cell"] + weights["cell_bias"]
    add, new, keep, show = tf.split(gates, 4, axis=1)
    kept = kept * tf.sigmoid(keep + 1) + tf.sigmoid(add) * tf.tanh(new)
    return kept, tf.sigmoid(show) * tf.tanh(kept)


def guess(weights: dict[str, Any], shown: Any, targets: Any) -> tuple[Any, Any, Any, Any]:
    """Guess each next word: the sum of losses, and its gradients for *shown*, output weights and biases.

    *shown* (50, n, 128) is what the memory showed at each word, *targets* (n, 50) are the words that follow.
    The loss is the cross-entropy of the softmax. Most of a step is spent here, over the whole vocabulary,
    so the gradients are computed at once, and word by word: what is at hand stays in the processor's cache.
    TensorFlow's own loss function takes twice the time.
    """
    out, bias = weights["out"], weights["out_bias"]
    row = tf.range(shown.shape[1], dtype=targets.dtype)

    def word(at: Any, loss: Any, back: Any, for_out: Any, for_bias: Any) -> Any:
        scores = tf.nn.bias_add(tf.matmul(shown[at], out, transpose_b=True), bias)
        chances = tf.nn.softmax(scores)
        right = tf.stack([row, targets[:, at]], 1)
        # Beside the likeliest word, since the chance of the right one may be too small for a float.
        likeliest = tf.reduce_max(scores, 1) - tf.math.log(tf.reduce_max(chances, 1))
        loss += tf.reduce_sum(likeliest - tf.gather_nd(scores, right))
        wrong = tf.tensor_scatter_nd_sub(chances, right, tf.ones_like(row, tf.float32))
        back = back.write(at, tf.matmul(wrong, out))
        for_out += tf.matmul(wrong, shown[at], transpose_a=True)
        return at + 1, loss, back, for_out, for_bias + tf.reduce_sum(wrong, 0)

    start = [0, 0.0, tf.TensorArray(tf.float32, LENGTH), tf.zeros_like(out), tf.zeros_like(bias)]
    _, loss, back, *rest = tf.while_loop(lambda at, *_: at < LENGTH, word, start, parallel_iterations=1)
    return loss, back.stack(), *rest


def writer(weights: dict[str, Any], text: Text) -> Any:
    """Return what goes on from some words with the likeliest next one, ten times or up to an unknown one."""

    def following(number: Any, kept: Any, shown: Any) -> Any:
        kept, shown = cell(weights, tf.gather(weights["embedding"], [number]), kept, shown)
        scores = tf.matmul(shown, weights["out"], transpose_b=True) + weights["out_bias"]
        return tf.argmax(scores[0], output_type=tf.int32), kept, shown

    compiled = tf.function(following, autograph=False)

    def write(beginning: str) -> str:
        memory = [tf.zeros([1, SIZE])] * 2
        for number in text.numbers(beginning):
            likeliest, *memory = compiled(tf.constant(number), *memory)
        written: list[str] = []
        while len(written) < MOST and likeliest:
            written.append(text.vocabulary[int(likeliest)])
            likeliest, *memory = compiled(likeliest, *memory)
        return " ".join([beginning, *written])

    return write


# --- Training ----------------------------------------------------------------------------------------------


def training_step(state: dict[str, Any], rows: Any, clip: float) -> Any:
    """Return what takes one step with some of the *rows* (rows, 50), by their indices: this rank's share.

    *state* has weights, optimizer, step, and the memory of all rows of a batch (batch, 2, 128): what it keeps
    and what it shows. The step gives the loss of the share, the norm of the gradient before it is clipped,
    and the seconds for which it waited for other ranks.
    """
    weights, memory, step = state["weights"], state["memory"], state["step"]
    batch = memory.shape[0]
    share, per_epoch = batch // hvd.size(), len(rows) // batch
    mine = slice(hvd.rank() * share, (hvd.rank() + 1) * share)  # Horovod: each rank remembers its own rows
    rows = tf.constant(rows)

    def take(indices: Any) -> Any:
        read = tf.gather(rows, indices)
        kept, shown = tf.unstack(memory[mine] * tf.cast(step % per_epoch > 0, tf.float32), axis=1)
        with tf.GradientTape() as tape:
            after = []
            for word in tf.unstack(tf.gather(weights["embedding"], read), axis=1):
                kept, shown = cell(weights, word, kept, shown)
                after.append(shown)
            shown_all = tf.stack(after)
        memory[mine].assign(tf.stack([kept, shown], axis=1))
        loss, back, *of_out = guess(weights, shown_all, tf.roll(read, -1, axis=1))
        part = 1 / (LENGTH * batch)  # Horovod: a word's part of the mean over the global batch
        first = [weights[name] for name in ("embedding", "cell", "cell_bias")]
        of_first = tape.gradient(shown_all, first, output_gradients=part * back)
        # Horovod: the gradients of the parts are added up, and clipped then: all ranks cut the same.
        summed, waited = gradients.add_up([*of_first, *(part * gradient for gradient in of_out)])
        clipped, norm = tf.clip_by_global_norm(summed, clip)
        state["optimizer"].apply_gradients(zip(clipped, weights.values(), strict=True), global_step=step)
        return loss / (LENGTH * share), norm, waited

    return take


def train(given: argparse.Namespace, ranks: World) -> None:
    """Train, write, and tell."""
    text = words.text(given.data_dir, given.text, given.rare)
    share = plan.share(given.batch_size, given.global_batch_size, ranks.size)
    rows = words.rows(text, share * ranks.size, LENGTH)
    course = plan.course(given, len(rows), ranks.size, epochs=EPOCHS.get(text.name, 10))
    together = math.ceil(PAUSE / course.per_epoch)  # epochs between two pauses
    course = replace(course, between=together * course.per_epoch)
    # Horovod: N ranks make the batch N times larger; its gradient is less noisy, so the step may grow.
    growth = course.batch / USUAL_BATCH
    rates = plan.learning_rates(
        given.learning_rate, growth=growth, rule=given.scaling, warmup=0, steps=course.steps
    )
    ranks.say(
        f"lstm: {ranks.place}\n"
        f"data: {len(text.words):,} words of {text.description}, {len(text.vocabulary):,} different, "
        f"{course.batch * LENGTH:,} per step, {course.steps} steps\n"
        f"optimizer: adam, learning rate {rates[-1]:.5f}, gradients clipped to {given.clip:g}",
    )
    step = tf.Variable(0, dtype=tf.int64)
    state = {
        "weights": first_weights(given.seed, len(text.vocabulary)),
        "optimizer": optimizers.make("adam", rates, step),
        "step": step,
        "memory": tf.Variable(tf.zeros([course.batch, 2, SIZE]), trainable=False),
    }
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    kept = {name: getattr(given, name) for name in ("learning_rate", "scaling", "clip", "seed")}
    training = Training(
        ranks,
        given,
        "lstm",
        text.name,
        course,
        training_step(state, rows, given.clip),
        state=state,
        settings=kept | {"words": len(text.words), "vocabulary": len(text.vocabulary)},
        measures=("loss", "norm"),
        unit="tokens",
        units=LENGTH,
        # Horovod: rank 0 saves what all ranks remember.
        before_save=lambda: state["memory"].assign(hvd.allgather(state["memory"][mine])),
    )
    write = writer(state["weights"], text)

    def recent() -> float:
        losses = training.history["loss"][-math.ceil(RECENT / (course.batch * LENGTH)) :]
        return float(np.mean(losses)) if losses else math.nan  # a former run's are known to rank 0 alone

    def perplexity() -> float:
        for beginning in BEGINNINGS:
            ranks.say(f"    {write(beginning)}")
        return math.exp(min(recent(), 700))

    training.run(
        lambda turn: np.concatenate(
            [
                words.order(len(rows), share, ranks, seed=given.seed, epoch=turn * together + epoch)
                for epoch in range(together)
            ]
        ),
        perplexity,
        lambda loss, value: f"loss {loss:.4f}  perplexity {value:,.2f}",
    )
    training.history["words_read"] = [course.batch * LENGTH * (step + 1) for step in range(course.steps)]
    training.finish(
        GOALS.get(text.name)
        or Goal("loss", "at most", round(math.log(len(text.vocabulary)), 2), "that of a blind guess"),
        {
            "learning_rate": round(float(rates[-1]), 6),
            "loss": round(recent(), 6),
            "perplexity": round(training.history["test"][-1][1], 2),
            "words": len(text.words),
            "vocabulary": len(text.vocabulary),
            "text": [write(beginning) for beginning in BEGINNINGS],
        },
        lambda file, title, history, goal: draw(file, title, history, goal, given.clip),
    )


def draw(file: Path, title: str, history: dict[str, Any], goal: Goal, clip: float) -> None:
    """Draw the loss, and the norm of the gradient, against the words read."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only rank 0 draws, and not pyplot: no display

    figure = Figure(figsize=(10, 4), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=11, color=plot.INK)
    bounds = {
        "loss": (goal.bound, f"goal: {goal.word} {goal.bound:.4g}"),
        "norm": (clip, f"clipped to {clip:g}"),
    }
    for axes, (measure, (bound, label)) in zip(figure.subplots(1, 2), bounds.items(), strict=True):
        axes.plot(history["words_read"], history[measure], color=plot.BLUE, linewidth=1)
        axes.axhline(bound, color=plot.INK, linewidth=1, linestyle=":", label=label)
        axes.set(xlabel="words read", ylabel=measure)
        axes.legend(frameon=False)
    figure.axes[1].set_ylabel("norm of the gradient")
    perplexity = figure.axes[0].secondary_yaxis("right", functions=(np.exp, np.log))
    perplexity.set(ylabel="perplexity", yscale="log")
    figure.savefig(file)


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        train(chosen, all_ranks)
