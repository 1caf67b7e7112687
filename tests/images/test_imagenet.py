"""CaffeNet in TensorFlow is Caffe's, says OpenCV; and what the ImageNet lab makes of pictures and weights."""

import json
from shlex import quote

import pytest

COMPARED = ["norm1", "norm2", "pool5", "fc8"]

# Random weights in the form of the published file: V1, and shapes of four numbers.
PUBLISHED = """
import hashlib, json, pathlib
import numpy as np
from labs import imagenet
from labs.caffe import files, net, opencv
from labs.caffe.files import field, varint
from labs.labkit.lazy import tf

def blob(array):
    shape = (1,) * (4 - array.ndim) + array.shape
    sizes = b"".join(varint(8 * n + 8) + varint(size) for n, size in enumerate(shape))
    return field(6, sizes + field(5, array.tobytes()))

def published(blobs):
    return b"".join(field(2, field(4, n.encode()) + b"".join(map(blob, both))) for n, both in blobs.items())

blobs = net.random(1)
"""

AGREEMENT = """
def found(size=net.SIZE, alpha=net.ALPHA, wrong={}):
    images = np.random.default_rng(1).normal(0, 70, (2, size, size, 3)).astype(np.float32)
    return opencv.differences(blobs, images, net.activations(net.variables(blobs | wrong), images, alpha))

def scores(model):
    network = opencv.network(model, net.SIZE)
    network.setInput(np.ones((1, 3, net.SIZE, net.SIZE), np.float32))
    return network.forward("fc8").tolist()

first, second = np.split(blobs["conv4"][0], 2)
print(json.dumps({
    "right": found(),
    "where pooling has a remainder": found(size=224),
    "alpha not divided": found(alpha=5 * net.ALPHA),
    "groups swapped": found(wrong={"conv4": [np.concatenate([second, first]), blobs["conv4"][1]]}),
    "one file": scores(published(blobs)) == scores(files.model(blobs)),
}))
"""

FILES = """
model, drawn = published(blobs), imagenet.stripes(3, seed=3)
made = {
    "pictures/1 photo.jpg": tf.io.encode_jpeg(drawn[0], quality=100),
    "pictures/2 page.jpg": b"<html>no picture</html>",
    "pictures/3/grey.PNG": tf.io.encode_png(drawn[1, :, :100, :1]),
    "pictures/4 clear.png": tf.io.encode_png(tf.concat([drawn[2], drawn[2, ..., :1]], -1)),
    "pictures/5 empty.gif": b"",
    "pictures/readme": b"text",
    "black.png": tf.io.encode_png(np.zeros((300, 20, 3), np.uint8)),
    "cut.png": tf.io.encode_png(drawn[0]).numpy()[:1000],
    "published.caffemodel": model,
    "sha1": hashlib.sha1(model).hexdigest().encode(),
    "mean.binaryproto": files.blob(np.broadcast_to(np.reshape(net.MEAN, (1, 3, 1, 1)), (1, 3, 256, 256))),
    "labels": "".join(f"n{n:08} thing {n}\\n" for n in range(1000)).encode(),
}
for name, content in made.items():
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.numpy())
"""
READ = ["pictures/1 photo.jpg", "pictures/3/grey.PNG", "pictures/4 clear.png", "black.png"]
SKIPPED = ["pictures/2 page.jpg", "pictures/5 empty.gif", "cut.png"]
LAB = "python -m labs.imagenet --results r"


def python(program):
    return f"python -c {quote(program)}"


@pytest.fixture(scope="module")
def lab(lab_of):
    """The lab image with OpenCV."""
    return lab_of("x86_64-cpu", "opencv")


@pytest.fixture(scope="module")
def agreement(lab):
    ran = lab.run(python(PUBLISHED + AGREEMENT))
    assert ran.status == 0, ran.said
    return json.loads(ran.said.splitlines()[-1])


@pytest.mark.parametrize("images", ["right", "where pooling has a remainder"])
def test_the_layers_are_those_of_opencvs_importer_to_a_hundred_thousandth(agreement, images):
    assert list(agreement[images]) == COMPARED
    assert max(agreement[images].values()) <= 1e-5


@pytest.mark.parametrize(
    ("mistake", "seen"), [("alpha not divided", COMPARED), ("groups swapped", ["pool5", "fc8"])]
)
def test_a_mistake_is_seen_from_its_layer_on_and_not_before(agreement, mistake, seen):
    assert [layer for layer, difference in agreement[mistake].items() if difference > 1e-5] == seen


def test_opencv_reads_the_published_form_and_the_current_one_alike(agreement):
    assert agreement["one file"] is True


@pytest.fixture(scope="module")
def checked(lab):
    """Two ranks with a model in the published form, checked by OpenCV."""
    more = "--weights published.caffemodel --sha1 $(cat sha1) --mean mean.binaryproto --labels labels"
    two = f"mpirun -n 2 --oversubscribe {LAB} --check --images pictures cut.png black.png {more}"
    return lab.run(
        f"{python(PUBLISHED + FILES)}\n{two}\ncat r/result.json; head -c 4 r/layers.png | tail -c 3"
    )


def test_two_ranks_classify_in_the_order_of_the_input_and_skip_by_name_what_is_no_picture(checked):
    assert (checked.result["images"], checked.result["skipped"]) == (4, 3)
    assert [line for line in checked.said.splitlines() if line.startswith("skipped: ")] == [
        f"skipped: {name} cannot be read as JPEG, PNG, BMP or GIF" for name in SKIPPED
    ]
    assert [answer["image"] for answer in answers(checked)] == READ
    assert all(
        label == f"n{n:08} thing {n}"
        for a in answers(checked)
        for n, label in zip(a["classes"], a["labels"], strict=True)
    )
    assert checked.said.endswith("PNG")


def answers(ran):
    """What result.json, which the run showed, says of each picture."""
    whole = next(line for line in ran.said.splitlines() if line.startswith('{"lab"'))
    return json.loads(whole)["top5"]


def test_the_check_is_told_beside_its_goal_and_the_timing_beside_the_workshops(checked):
    told = checked.result
    assert told["goal"]["reached"]
    assert 0 < told["difference"] <= 1e-5
    timing = f"CPU {told['batch_s']:.3g} s (workshop: 7.22 s), GPU none here (workshop: 56.4 ms)"
    assert timing in checked.said


def test_one_rank_with_keras_2_gives_the_same_answers_and_says_that_random_weights_mean_nothing(
    checked, lab_of
):
    one = f"{LAB} --seed 1 --images {' '.join(map(quote, READ))}"
    ran = lab_of("x86_64-cpu-keras2").run(f"{python(PUBLISHED + FILES)}\n{one}\ncat r/result.json")
    assert (ran.result["goal"]["measure"], ran.result["goal"]["reached"]) == ("batch_s", True)
    assert "weights: random (no --weights): the classes mean nothing" in ran.said
    ours, theirs = answers(ran), answers(checked)
    assert [answer["classes"][0] for answer in ours] == [answer["classes"][0] for answer in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our["prob"] == pytest.approx(their["prob"], rel=1e-4)
    alike = len(READ) - len({round(answer["prob"][0], 6) for answer in ours})
    assert not alike, "pictures with the same answers would show no order"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--check alpha", "norm1 differs from OpenCV's by"),
        ("--check groups", "norm2 differs from OpenCV's by"),
        ("--images empty.png missing.jpg", "no picture can be read as JPEG, PNG, BMP or GIF: not empty.png"),
        ("--weights empty.png", "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709, expected was 4c8d77deb20e"),
    ],
)
def test_what_cannot_work_ends_with_a_sentence_and_status_1(lab, options, said):
    ran = lab.run(f"touch empty.png\n{LAB} {options}")
    assert ran.status == 1, ran.said
    assert said in ran.said
    assert "Traceback" not in ran.said
    assert "RESULT" not in ran.said
