"""Caffe's files, and what the ImageNet lab does without TensorFlow."""

import hashlib
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from labs import imagenet
from labs.caffe import figure, files, net, opencv
from labs.caffe.files import field, varint
from labs.labkit import LabError

JOBS = Path(__file__).resolve().parents[2] / "jobs"
CONV = [np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.array([0.5, -0.5], np.float32)]


def dims(*sizes):
    """A blob's shape as old files have it: number, channels, height, width."""
    return b"".join(varint(8 * (number + 1)) + varint(size) for number, size in enumerate(sizes))


def packed(array):
    return field(5, array.astype("<f4").tobytes())


def one_by_one(array):
    return b"".join(varint(8 * 5 + 5) + struct.pack("<f", value) for value in array.flat)


def doubles(array):
    return field(8, array.astype("<f8").tobytes())


OLD = dims(2, 3, 2, 2), dims(1, 1, 1, 2)
NEW = field(7, field(1, bytes([2, 3, 2, 2]))), field(7, field(1, bytes([2])))
NEW_ONE_BY_ONE = tuple(
    field(7, b"".join(b"\x08" + bytes([size]) for size in sizes)) for sizes in ([2, 3, 2, 2], [2])
)
BEFORE = field(1, b"CaffeNet") + field(3, b"data") + varint(8 * 4) + varint(10)  # what else a file has
AROUND = (
    varint(8 * 20 + 1)
    + bytes(8)
    + varint(8 * 21 + 5)
    + bytes(4)
    + field(22, b"{}")
    + varint(8 * 23)
    + b"\x01"
)


def layer(shapes, values, number, naming, holding):
    blobs = [field(holding, s + values(a) + field(6, bytes(4))) for s, a in zip(shapes, CONV, strict=True)]
    return BEFORE + field(number, AROUND + field(naming, b"conv") + blobs[0] + AROUND + blobs[1])


@pytest.mark.parametrize("values", [packed, one_by_one, doubles])
@pytest.mark.parametrize(
    ("shapes", "form"),
    [
        (OLD, (2, 4, 6)),
        (NEW, (2, 4, 6)),
        (OLD, (100, 1, 7)),
        (NEW, (100, 1, 7)),
        (NEW_ONE_BY_ONE, (100, 1, 7)),
    ],
    ids=["V1, old shape", "V1", "current, old shape", "current", "current, shape not packed"],
)
def test_both_forms_of_a_model_are_read_with_both_forms_of_shape_and_any_of_numbers(
    tmp_path, shapes, form, values
):
    (tmp_path / "m").write_bytes(layer(shapes, values, *form))
    (name, read), *others = files.read_model(tmp_path / "m").items()
    assert (name, others) == ("conv", [])
    for found, wanted in zip(read, CONV, strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found.reshape(wanted.shape), wanted)


def test_what_is_written_is_what_the_format_says_and_is_read_again(tmp_path):
    # by hand: field 7 holds field 1, packed 2; field 5 holds 1.0 and -2.0
    wanted = bytes.fromhex("3a030a0102 2a080000803f000000c0")
    assert files.blob(np.array([1, -2], np.float32)) == wanted
    blobs = {"conv": CONV, "relu": [], "wide": [np.ones((1, 300), np.float32)]}
    (tmp_path / "m").write_bytes(files.model(blobs))
    read = files.read_model(tmp_path / "m")
    assert list(read) == list(blobs)
    for name, arrays in blobs.items():
        assert [array.shape for array in read[name]] == [array.shape for array in arrays]
        assert all(np.array_equal(*pair) for pair in zip(read[name], arrays, strict=True))


def test_another_checksum_is_told_with_the_expected_one_and_what_to_do(tmp_path):
    file = tmp_path / "m.caffemodel"
    file.write_bytes(files.model({"conv": CONV}))
    found = hashlib.sha1(file.read_bytes()).hexdigest()  # noqa: S324 - what Caffe publishes
    with pytest.raises(
        LabError, match=f"{file} has the sha1 {found}, expected was {net.SHA1}: .*--sha1 {found}"
    ):
        files.read_model(file, net.SHA1)
    assert files.read_model(file, found).keys() == {"conv"}


def test_a_file_that_ends_anywhere_before_its_end_is_refused(tmp_path):
    whole, file = files.model({"conv": CONV}), tmp_path / "m"
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(LabError, match=f"^{file} (is no whole .caffemodel|has no layers)"):
            files.read_model(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>404 not found</html>", "is no whole .caffemodel"),
        (b"\xff" * 20, "a number is cut off"),
        (field(100, field(7, dims(3, 1, 1, 1) + packed(CONV[1]))), "2 values in an array of 3 x 1 x 1 x 1"),
        (field(100, field(7, dims(2, 1, 1, 1) + field(5, bytes(9)))), "9 bytes are no array of numbers"),
        (varint(8 * 100) + b"\x01", "a number where a message should be"),
        (field(1, b"no layers"), "has no layers"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_is_wrong(tmp_path, content, said):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(LabError, match=said):
        files.read_model(tmp_path / "m")


def test_a_file_that_is_not_there_costs_a_sentence(tmp_path):
    with pytest.raises(LabError, match=f"{tmp_path}/none cannot be read .No such file"):
        files.read_model(tmp_path / "none")


def zeros(*shape):
    return np.broadcast_to(np.float32(0), shape)


@pytest.fixture
def caffenet():
    """CaffeNet's blobs as the published file has their shapes; they take no memory."""
    made = {}
    for name, what in net.LAYERS.items():
        ones = (1,) * (4 - len(what.shape))
        made[name] = [zeros(*ones, *what.shape), zeros(1, 1, 1, what.shape[0])]
    return {"data": [], "pool1": [], "norm1": []} | made | {"loss": []}


def test_caffenets_layers_are_taken_in_its_shapes(caffenet):
    taken = net.fitting(caffenet, Path("m"))
    assert list(taken) == list(net.LAYERS)
    assert [array.shape for array in taken["fc6"]] == [(4096, 9216), (4096,)]
    assert sum(array.size for arrays in taken.values() for array in arrays) == 60_965_224


def test_a_layer_of_another_shape_is_named_with_both_shapes(caffenet):
    caffenet["fc8"] = [zeros(20, 4096), zeros(20)]
    with pytest.raises(
        LabError, match=r"^m: layer fc8 has 20 x 4096 and 20, but CaffeNet's has 1000 x 4096 and 1000"
    ):
        net.fitting(caffenet, Path("m"))
    caffenet["conv2"] = [zeros(256, 96, 5, 5), zeros(256)]
    with pytest.raises(
        LabError, match=r"layer conv2 has 256 x 96 x 5 x 5 and 256, but .* 256 x 48 x 5 x 5 and 256"
    ):
        net.fitting(caffenet, Path("m"))


def test_a_layer_that_is_missing_is_named(caffenet):
    del caffenet["fc7"]
    with pytest.raises(LabError, match="layer fc7 has no weights, but CaffeNet's has 4096 x 4096 and 4096"):
        net.fitting(caffenet, Path("m"))


def test_alexnet_whose_weights_have_the_same_shapes_is_refused(caffenet):
    with pytest.raises(LabError, match="m normalizes before it pools, as AlexNet does"):
        net.fitting({"norm1": [], "pool1": []} | caffenet, Path("m"))


def test_random_weights_are_those_with_which_caffe_starts():
    blobs = net.random(seed=1)
    for name, deviation, bias in (
        ("conv1", 0.01, 0),
        ("conv2", 0.01, 1),
        ("fc6", 0.005, 1),
        ("fc8", 0.01, 0),
    ):
        weights, biases = blobs[name]
        assert float(weights.std()) == pytest.approx(deviation, rel=0.02)
        assert float(weights.mean()) == pytest.approx(0, abs=deviation / 50)
        assert set(biases.tolist()) == {bias}
    assert np.array_equal(net.random(seed=1)["conv5"][0], blobs["conv5"][0])


IMAGE = np.stack([np.full((4, 4), 104.0), np.full((4, 4), 117.0), np.arange(16.0).reshape(4, 4)])


def test_a_mean_image_becomes_the_mean_of_each_channel(tmp_path):
    (tmp_path / "mean.binaryproto").write_bytes(files.blob(IMAGE[None]))
    (tmp_path / "old.binaryproto").write_bytes(dims(1, 3, 4, 4) + packed(IMAGE))
    np.save(tmp_path / "mean.npy", IMAGE)
    np.save(tmp_path / "three.npy", [104.0, 117.0, 7.5])
    for file in tmp_path.iterdir():
        assert files.read_mean(file).tolist() == [104, 117, 7.5], file


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "grey.binaryproto",
            files.blob(IMAGE[None, :1]),
            "holds an array of 1 x 4 x 4, not the mean of images of 3",
        ),
        ("cut.binaryproto", files.blob(IMAGE)[:-1], "is no mean of images, .*1 bytes are missing"),
        ("page.npy", b"<html>", "is no mean of images"),
        ("empty.binaryproto", b"", "holds an array of 0 x 0 x 0 x 0, not the mean"),
        (None, None, "is no mean of images|cannot be read"),
    ],
)
def test_a_file_that_is_no_mean_is_refused(tmp_path, name, content, said):
    file = tmp_path / (name or "none.npy")
    if name:
        file.write_bytes(content)
    with pytest.raises(LabError, match=said):
        files.read_mean(file)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, "OpenCV is not in this image"),
        (SimpleNamespace(__version__="5.0.0"), "OpenCV is 5.0.0 here, which cannot"),
    ],
)
def test_without_an_opencv_that_reads_caffes_files_the_check_names_the_image_that_has_one(
    monkeypatch, module, said
):
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(LabError, match=f"{said}.*lab image with the layer opencv .*build lab --with opencv"):
        opencv.load()


def test_pictures_are_listed_as_typed_and_those_of_a_directory_by_name_with_all_below(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "notes.txt", "z.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    typed = [tmp_path / "notes.txt", tmp_path, Path("missing.jpg")]
    found = [name.decode().removeprefix(f"{tmp_path}/") for name in imagenet.listed(typed)]
    assert found == ["notes.txt", "a.jpeg", "b/1.png", "b/2.JPG", "z.gif", "missing.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match=f"{tmp_path}/empty has no pictures in it .*--images"):
        imagenet.listed([tmp_path / "empty"])


def test_classes_have_the_names_in_the_file_or_numbers(tmp_path):
    assert imagenet.class_names(None)[281] == "class 281"
    file = tmp_path / "synset_words.txt"
    file.write_text("".join(f"n{number:08} thing {number}\n" for number in range(1000)))
    assert imagenet.class_names(file)[281] == "n00000281 thing 281"
    file.write_text("one\ntwo\n")
    with pytest.raises(LabError, match=f"{file} names 2 classes, CaffeNet knows 1000"):
        imagenet.class_names(file)
    with pytest.raises(LabError, match=r"none cannot be read .* with --labels"):
        imagenet.class_names(tmp_path / "none")


def test_a_mosaic_shows_each_tile_in_its_place_and_leaves_the_rest_white():
    tiles = np.arange(3.0)[:, None, None] * np.ones((3, 2, 2))
    assert figure.mosaic(tiles).tolist() == [
        [0, 0, 1, 0.5, 0.5, 1], [0, 0, 1, 0.5, 0.5, 1], [1] * 6,
        [1] * 6, [1] * 6, [1] * 6,
    ]  # fmt: skip
    assert figure.mosaic(np.zeros((96, 11, 11, 3))).shape == (120, 120, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check", "beta"], "choose from"),
        (["--batch-size", "0"], "'0' is not a whole number"),
        (["--images"], "expected at least one argument"),
    ],
)
def test_a_wrong_option_costs_a_sentence_and_status_2(arguments, said):
    done = subprocess.run(
        [sys.executable, "-m", "labs.imagenet", *arguments],
        cwd=JOBS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
