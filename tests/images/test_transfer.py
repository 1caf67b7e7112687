"""Transfer learning: what the past is worth; a run that is broken off; pictures of the user's, in shards."""

import json
import re

import pytest

TWO = "mpirun -n 2 --oversubscribe"

# Pictures of stripes, across or down, in two classes, laid as Imagenette's; weights for them.
MADE = """
import hashlib, pathlib
import numpy as np
from labs.caffe import files, net
from labs.labkit.lazy import tf

draw = np.random.default_rng(1)
for part, many in (("train", 12), ("val", 5)):
    for name, axis in (("across", 0), ("down", 1)):
        place = pathlib.Path("made", part, name)
        place.mkdir(parents=True)
        for number in range(many):
            size, width = draw.integers(60, 90, 2), draw.uniform(0.3, 0.6)
            wave = np.sin(width * np.indices(size)[axis])[..., None] * [90, 60, 30] + 120
            encode, end = (tf.io.encode_png, "png") if number % 2 else (tf.io.encode_jpeg, "JPEG")
            (place / f"{number}.{end}").write_bytes(encode(wave.astype(np.uint8)).numpy())
pathlib.Path("made/train/down/broken.jpg").write_bytes(b"<html>")
model = files.model(net.random(5))
pathlib.Path("w.caffemodel").write_bytes(model)
print("sha1", hashlib.sha1(model).hexdigest())
"""

# What two ranks read of the shards; what one reads that goes on after a step.
READ = """
import hashlib, json
from pathlib import Path
import numpy as np
from labs import transfer_learning as lab
from labs.labkit import pictures, world
from labs.labkit.world import World
from labs.transfer import data

def stream(rank, epoch):
    read = shards.read("train", World(rank, [None, None]), epoch=epoch, seed=1)
    return [(hashlib.sha1(jpeg).hexdigest(), jpeg, label) for jpeg, label in read.as_numpy_iterator()]

def down(jpeg):
    picture = pictures.decoded(jpeg).numpy().astype(float)
    return np.abs(np.diff(picture, axis=1)).mean() > np.abs(np.diff(picture, axis=0)).mean()

with world.start() as ranks:
    given = lab.knobs().parse_args()
    given.global_batch_size = 4
    shards = pictures.Shards.found(given.images)
    streams = [stream(rank, 0) for rank in range(2)]
    batches = []
    for begin in (0, 1):
        mine = data.Pictures(given, ranks)
        mine.begin(begin)
        batches.append([hashlib.sha1(mine.take(None)[0].numpy()).hexdigest() for _ in range(4 - begin)])
    print(json.dumps({
        "streams": [[name for name, *_ in one] for one in streams],
        "next epoch": [name for name, *_ in stream(0, 1)],
        "wrong labels": sum(bool(down(jpeg)) != bool(label) for one in streams for _, jpeg, label in one),
        "from the first batch": batches[0], "from the second batch": batches[1],
    }))
"""

# Three steps, the last one of all layers: what each changed.
STEPS = """
import json
import numpy as np
from labs import transfer_learning as lab
from labs.labkit import optimizers, world
from labs.labkit.lazy import tf
from labs.transfer import data, networks

given = lab.knobs().parse_args(["--steps", "2"])
with world.start() as ranks:
    fields = data.Fields(given, ranks)
    weights = {f"{name}/{layer}": var for name in lab.NETS for layer, var in networks.small(1).items()}
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = optimizers.make("momentum", np.full(3, 0.1, np.float32), step)
    take = tf.function(lab.training_step(fields, weights, optimizer, step, given))
    for _ in range(3):
        before = {name: var.numpy() for name, var in weights.items()}
        take(tf.range(48, dtype=tf.int64))
        print(json.dumps([name for name, var in weights.items() if np.any(var.numpy() != before[name])]))
"""


@pytest.mark.parametrize(
    ("target", "ranks", "data"),
    [
        ("x86_64-cpu", 2, "mnist"),
        ("x86_64-cpu-keras2", 1, "digits"),
        *(
            pytest.param("x86_64-cpu", ranks, data, marks=pytest.mark.long)
            for ranks, data in ((1, "mnist"), (3, "mnist"), (2, "digits"))
        ),
    ],
)
def test_a_network_with_a_past_is_ten_points_ahead_after_the_same_steps(lab_of, request, target, ranks, data):
    place = "MINSKY_DATA_DIR=/none"
    if data == "mnist":
        place = ""
        request.getfixturevalue("staged")
    launch = f"mpirun -n {ranks} --oversubscribe" if ranks > 1 else ""
    seen = lab_of(target).run(f"{place} {launch} python -m labs.transfer_learning").result
    assert (seen["data"], seen["ranks"], seen["examples"]) == (data, ranks, 100)
    assert seen["accuracy"] - seen["scratch_accuracy"] == pytest.approx(seen["gap"], abs=1e-6)
    assert seen["gap"] >= 0.1
    assert seen["last_layer"]["pretrained"] - seen["last_layer"]["scratch"] >= 0.1
    assert seen["last_layer"]["scratch"] > 0.2, "chance"
    assert seen["last_layer_gradient_bytes"] == 2 * 4 * (256 * 5 + 5)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_so_it_is_with_other_examples(lab, staged, seed):
    assert lab.program("labs.transfer_learning", "--seed", str(seed)).result["gap"] >= 0.1


def test_the_other_layers_stay_while_the_last_one_learns_alone(lab):
    ran = lab.run(f"cat >steps.py <<'END'\n{STEPS}\nEND\nMINSKY_DATA_DIR=/none python steps.py")
    assert ran.status == 0, ran.said
    *alone, all_of_them = (json.loads(line) for line in ran.said.splitlines() if line.startswith("["))
    last = [f"{network}/last{end}" for network in ("pretrained", "scratch") for end in ("", "_bias")]
    assert [*map(sorted, alone)] == [last, last]
    assert len(all_of_them) == 20


def test_two_ranks_take_the_steps_of_one(lab):
    run = "python -m labs.transfer_learning --pretraining 1 --steps 10"
    ran = lab.run(
        f"export MINSKY_DATA_DIR=/none; {run} --results one; {TWO} {run} --results two\n"
        "cat one/result.json two/result.json"
    )
    assert ran.status == 0, ran.said
    results = (json.loads(line) for line in ran.said.splitlines() if line.startswith('{"lab"'))
    one, two = (result["history"] for result in results)
    assert len(set(one["scratch_loss"])) == 20
    for measure in ("loss", "scratch_loss"):
        assert two[measure] == pytest.approx(one[measure], rel=1e-3)


def test_a_run_that_is_broken_off_while_all_layers_learn_ends_as_if_it_had_not_been(lab):
    ran = lab.run(
        "export MINSKY_DATA_DIR=/none\n"
        "run() { python -m labs.transfer_learning --pretraining 20 --steps 150 --results $1; }\n"
        "run whole; cat whole/result.json\n"
        ": >out; run broken >out & job=$!\n"
        "while kill -0 $job && ! grep -q 'all layers:' out; do sleep .1; done\n"
        "kill $(grep -lx 'python.*' /proc/[0-9]*/comm | cut -d/ -f3); status=0; wait $job || status=$?\n"
        "cat out; echo status $status; run broken; cat broken/result.json"
    )
    assert ran.status == 0, ran.said
    assert "\nstatus 75\n" in ran.said
    step = int(re.findall(r"continuing from step (\d+) in /tmp/broken\n", ran.said)[-1])
    assert 150 < step < 300
    whole, broken = (
        json.loads(line)["history"] for line in ran.said.splitlines() if line.startswith('{"lab"')
    )
    assert len(whole["loss"]) == 300
    for measure in ("loss", "scratch_loss", "test"):
        assert broken[measure] == whole[measure]


@pytest.fixture(scope="module")
def of_pictures(lab):
    """What a run says that writes shards on two ranks, and learns from them on two and on one."""
    learn = "python -m labs.transfer_learning --weights w.caffemodel --global-batch-size 4 --steps 2"
    return lab.run(
        f"cat >made.py <<'END'\n{MADE}\nEND\npython made.py | tee sum; sha1=$(sed -n 's/sha1 //p' sum)\n"
        f"{TWO} python -m labs.labkit.shards made --shards 2 --results shards\n"
        f"{TWO} {learn} --sha1 $sha1 --images shards --results two\n"
        f"cat >read.py <<'END'\n{READ}\nEND\npython read.py --images shards --weights w.caffemodel\n"
        "! python -m labs.labkit.shards made --results /small/shards\n"
        f"! mpirun -n 3 --oversubscribe {learn} --sha1 $sha1 --images shards --global-batch-size 6\n"
        f"! {learn} --images shards\n"
        f"! {learn} --images made\n"
        "! python -m labs.transfer_learning --images shards\n"
        "echo more >>shards/train-00001.tfrecord\n"
        f"! {learn} --sha1 $sha1 --images shards\n"
        "! python -m labs.labkit.shards made/val/down",
        tmpfs="100k",
    )


def test_pictures_in_directories_become_shards_from_which_ranks_learn(of_pictures):
    assert of_pictures.status == 0, of_pictures.said
    said = of_pictures.said
    assert "skipped: made/train/down/broken.jpg cannot be read as JPEG, PNG, BMP or GIF" in said
    assert "train  24 pictures in 2 shards" in said
    assert "test   10 pictures in 2 shards" in said
    [two] = (json.loads(line) for line in re.findall(r"(?m)^RESULT (\{.*\})$", said))
    assert (two["ranks"], two["data"], two["steps"]) == (2, "shards", 4)
    assert two["last_layer_gradient_bytes"] == 2 * 4 * (4096 * 2 + 2)
    assert two["input_s"] > 0
    assert "waiting for pictures" in said


def test_each_rank_reads_its_own_shards_in_another_order_each_time_and_goes_on_where_it_was(of_pictures):
    [read] = (json.loads(line) for line in of_pictures.said.splitlines() if line.startswith('{"streams"'))
    first, other = read["streams"]
    assert len({*first, *other}) == len(first) + len(other) == 24
    assert read["next epoch"] != first
    assert sorted(read["next epoch"]) == sorted(first)
    assert read["wrong labels"] == 0
    assert read["from the second batch"] == read["from the first batch"][1:]


@pytest.mark.parametrize(
    "reason",
    [
        "3 ranks read a shard each or more, but shards has 2 shards for train: use no more ranks",
        r"w.caffemodel has the sha1 \w{40}, expected was 4c8d77de",
        "made has no whole shards of pictures .* sbatch jobs/shards.sh DIRECTORY",
        "--images and --weights go together",
        "shards/train-00001.tfrecord is damaged: make them",
        "shards cannot be written to /small/shards .*name another directory",
        "made/val/down has no directories with pictures .* two or more are needed",
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_what_to_do(of_pictures, reason):
    assert re.search(reason, of_pictures.said)
    assert "Traceback" not in of_pictures.said
