"""The LSTM lab: its network is TensorFlow 1's, its training the notebook's, on any number of ranks."""

import json
import math
import os
from pathlib import Path

import pytest

BEGINNINGS = ["thou art more", "to be or not to", "wherefore art thou"]
TWO = "mpirun -n 2 --oversubscribe"
SETTINGS = "--global-batch-size 8 --text /jobs/labs/labkit/sonnets.txt --rare 1"

# One step of the lab, with gradient descent at rate 1, so that the weights move by its gradient; and
# TensorFlow's kernel for BasicLSTMCell, loss function and automatic gradients, on the same words.
STEP = """
import json
import numpy as np
from labs import lstm
from labs.labkit import optimizers
from labs.labkit.lazy import hvd, tf
hvd.init()
random = np.random.default_rng(3)
rows = random.integers(0, 30, (12, lstm.LENGTH)).astype(np.int32)
start = random.normal(0, 1, (4, 2, lstm.SIZE)).astype(np.float32)

def plain(weights, read, memory):
    zero = tf.zeros(lstm.SIZE)
    with tf.GradientTape() as tape:
        passed = tf.raw_ops.BlockLSTM(
            seq_len_max=tf.constant(lstm.LENGTH, tf.int64),
            x=tf.gather(weights["embedding"], read.T),
            cs_prev=memory[:, 0], h_prev=memory[:, 1], w=weights["cell"], b=weights["cell_bias"],
            wci=zero, wcf=zero, wco=zero, forget_bias=1.0, cell_clip=-1.0, use_peephole=False,
        )
        scores = tf.matmul(passed.h, weights["out"], transpose_b=True) + weights["out_bias"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(np.roll(read, -1, axis=1).T, scores)
        loss = tf.reduce_mean(losses)
    gradient = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, list(weights.values()))]
    return float(loss), gradient, np.stack([passed.cs[-1], passed.h[-1]], axis=1)

def lab(now, clip):
    weights, step = lstm.first_weights(1, 30), tf.Variable(now, dtype=tf.int64)
    memory, descent = tf.Variable(start), optimizers.make("gd", np.ones(9, np.float32), step)
    state = {"weights": weights, "memory": memory, "step": step, "optimizer": descent}
    before = [weight.numpy() for weight in weights.values()]
    loss, norm, _ = tf.function(lstm.training_step(state, rows, clip))(tf.constant([4, 5, 6, 7], tf.int64))
    moved = [old - new.numpy() for old, new in zip(before, weights.values())]
    return float(loss), float(norm), moved, memory.numpy()

def far(one, other):
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(one, other))

def length(gradient):
    return float(np.sqrt(sum((part ** 2).sum() for part in gradient)))

weights, found = lstm.first_weights(1, 30), {}
for name, now, memory in (("later", 1, start), ("first", 3, 0 * start)):
    loss, gradient, after = plain(weights, rows[4:8], memory)
    lab_loss, norm, moved, lab_after = lab(now, 99)
    found[name] = [abs(lab_loss / loss - 1), far(moved, gradient), far([lab_after], [after])]
    found[name] += [abs(norm / length(gradient) - 1)]
found["clipped"] = length(lab(1, 0.1)[2])
found["memory matters"] = abs(plain(weights, rows[4:8], start)[0] - loss)
print(json.dumps(found))
"""


@pytest.fixture
def has_shakespeare():
    if not (Path(os.environ.get("MINSKY_DATA", "")) / "shakespeare" / "complete_works.txt").exists():
        pytest.skip("set MINSKY_DATA to the directory that holds shakespeare/complete_works.txt")


def histories(said):
    """What runs left in result.json, as a script printed it: histories by names of runs."""
    pairs = [line.split(" ", 1) for line in said.splitlines() if line.startswith("history-")]
    return {name: json.loads(text)["history"] for name, text in pairs}


def alike(history, whole):
    """Whether they are of the same training. Adam does not heed the size of gradients, their norm does."""
    steps = len(history["loss"])
    return history["loss"] == pytest.approx(whole["loss"][:steps], rel=1e-5) and history[
        "norm"
    ] == pytest.approx(whole["norm"][:steps], rel=1e-4)


@pytest.mark.parametrize("target", ["x86_64-cpu", "x86_64-cpu-keras2"])
def test_a_step_is_that_of_tensorflows_own_cell_loss_and_gradients(lab_of, target):
    ran = lab_of(target).run(f"cat >step.py <<'END'\n{STEP}\nEND\npython step.py")
    assert ran.status == 0, ran.said
    found = json.loads(ran.said.splitlines()[-1])
    assert max(found["later"] + found["first"]) < 1e-4, found
    assert found["clipped"] == pytest.approx(0.1, rel=1e-4)
    assert found["memory matters"] > 1e-2


def test_a_training_that_stops_goes_on_as_if_it_had_not_on_as_many_ranks_as_will(lab):
    ran = lab.run(
        "run() { name=$1 launch=$2; shift 2\n"
        f"  $launch python -m labs.lstm {SETTINGS} --results $name $@; "
        'echo "history-$name $(cat $name/result.json)"; }\n'
        f"two='{TWO}'\n"
        "run whole '' --steps 14\n"
        "run one '' --steps 6; run one '' --steps 14\n"
        'run two "$two" --steps 6; cp -r two other; run two "$two" --steps 14\n'
        "run other '' --steps 14"
    )
    assert ran.status == 0, ran.said
    assert ran.said.count("continuing from step 6 in") == 3
    told = histories(ran.said)
    whole = told["history-whole"]
    assert len(set(whole["loss"])) == 14
    assert told["history-one"]["loss"] == whole["loss"]
    for name in ("two", "other"):
        assert alike(told[f"history-{name}"], whole), told
    assert ran.result["data"] == "sonnets.txt"
    assert ran.result["goal"]["source"] == "that of a blind guess"


def test_without_shakespeare_it_knows_the_sonnets_by_heart_on_two_ranks_of_the_second_leg(lab_of):
    result = lab_of("x86_64-cpu-keras2").run(f"MINSKY_DATA_DIR=/none {TWO} python -m labs.lstm").result
    assert (result["data"], result["ranks"]) == ("sonnets", 2)
    assert result["goal"]["reached"]
    sonnets = Path("jobs/labs/labkit/sonnets.txt").read_text().lower()
    assert all(word in sonnets for line in result["text"] for word in line.split())
    assert [len(line.split()) for line in result["text"]] == [13, 15, 13]


def trained(lab, *, epochs=1, ranks=1):
    """The result of a training on the complete works, and the losses of all steps."""
    launch = TWO if ranks > 1 else ""
    ran = lab.run(
        f"{launch} python -m labs.lstm --epochs {epochs} --results run\n"
        f"{TWO} python -m labs.lstm --global-batch-size 100 --steps 8 --results two >two.out\n"
        'for name in run two; do echo "history-$name $(cat $name/result.json)"; done'
    )
    result = ran.result
    assert (result["words"], result["vocabulary"]) == (937_189, 8_233)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]), rel=1e-3)
    assert [line[: len(start)] for line, start in zip(result["text"], BEGINNINGS, strict=True)] == BEGINNINGS
    assert all(f"    {line}\n" in ran.said for line in result["text"])
    return result, histories(ran.said)


def test_an_epoch_of_the_complete_works_costs_what_it_must_and_begins_alike_on_two_ranks(
    lab, has_shakespeare
):
    result, told = trained(lab)
    assert result["steps"] == 188
    assert 6.65 <= result["loss"] <= 6.85
    assert result["gradient_bytes"] == 8_989_860
    assert alike(told["history-two"], told["history-run"])


@pytest.mark.long
def test_two_ranks_that_take_half_as_many_steps_twice_as_long_reach_the_same(lab, has_shakespeare):
    result, _ = trained(lab, ranks=2)
    assert result["steps"] == 94
    assert 6.65 <= result["loss"] <= 6.85


@pytest.mark.long
def test_ten_epochs_of_the_complete_works_reach_the_notebooks_plot(lab, has_shakespeare):
    result, _ = trained(lab, epochs=10)
    print(result)
    assert 5.7 <= result["loss"] <= 5.9
