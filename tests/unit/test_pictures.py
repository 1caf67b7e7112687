"""Directories of pictures as classes; fields with digits and scraps."""

import numpy as np
import pytest

from labs.labkit import LabError, datasets, pictures


@pytest.fixture
def tree(tmp_path):
    """Make files of these names, and directories."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(listed, part):
    return [(file.decode().rpartition("/")[2], label) for file, label in listed[part]]


def test_imagenettes_layout_has_a_part_to_learn_from_and_one_to_test_with(tree):
    root = tree("train/n1/a.JPEG", "train/n1/deep/b.png", "train/n2/c.jpg", "train/n2/c.txt", "val/n2/d.gif")
    classes, listed = pictures.listed(root)
    assert classes == ["n1", "n2"]
    assert names(listed, "train") == [("a.JPEG", 0), ("b.png", 0), ("c.jpg", 1)]
    assert names(listed, "test") == [("d.gif", 1)]


def test_without_parts_every_fifth_picture_of_each_class_is_to_test_with(tree):
    _, listed = pictures.listed(tree(*(f"{kind}/{n}.png" for kind in "ab" for n in range(7))))
    assert names(listed, "test") == [("0.png", 0), ("5.png", 0), ("0.png", 1), ("5.png", 1)]
    assert len(listed["train"]) == 10
    assert not {file for file, _ in listed["train"]} & {file for file, _ in listed["test"]}


def test_directories_that_are_no_classes_are_refused(tree, tmp_path):
    with pytest.raises(LabError, match=r"has 1 directories with pictures .* two or more are needed"):
        pictures.listed(tree("train/n1/a.jpg", "train/n2/none.txt"))
    with pytest.raises(LabError, match=r"val has a class n9, which .*train has not"):
        pictures.listed(tree("train/n2/a.jpg", "val/n9/a.jpg"))
    with pytest.raises(LabError, match="cannot be read"):
        pictures.listed(tmp_path / "nowhere")


def test_a_field_shows_the_whole_image_somewhere_among_scraps_of_others():
    images = np.full((6, 28, 28, 1), 200, np.uint8)
    fields = datasets.scattered(images, np.random.default_rng(1))
    assert fields.shape == (6, 40, 40, 1)
    places = set()
    for field in fields:
        windows = np.lib.stride_tricks.sliding_window_view(field[..., 0], (28, 28))
        places.add(tuple(np.argwhere((windows == 200).all(axis=(2, 3)))[0]))
    assert len(places) > 1
    assert any((field == 200).sum() > 28 * 28 for field in fields)


def test_the_same_seed_makes_the_same_fields():
    images = np.random.default_rng(1).integers(0, 256, (5, 28, 28, 1), np.uint8)
    one, same, other = (datasets.scattered(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
