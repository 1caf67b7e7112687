"""A text as the LSTM lab reads it: cleaned, counted, cut into rows, dealt out to the ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labs.labkit import LabError, words, world

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@pytest.fixture
def written(tmp_path):
    """Write a text; it, as a user's own."""

    def write(content, rare=0):
        file = tmp_path / "mine.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return words.text(None, file, rare)

    return write


def said(text):
    return " ".join(text.vocabulary[number] for number in text.words)


def test_a_text_is_cleaned_as_the_notebook_does():
    dirty = "O, learn\tto-day!  'Tis [the] __lark__:\n@Dawn's 3.14"
    assert words.clean(dirty, between=" ") == "o learn to-day 'tis the lark dawn's 3 14"
    assert words.clean("day?\nThou art\nmore", between="") == "day thou artmore"


def test_own_texts_keep_the_words_at_the_ends_of_their_lines_apart(written):
    assert said(written("the one\r\nthe other\nand more")) == "the one the other and more"


def test_words_seen_too_rarely_are_the_one_unknown_word(written):
    text = written("a b a c a b d", rare=1)
    assert text.vocabulary == ["unknown", "a", "b"]
    assert text.words.tolist() == [1, 2, 1, 0, 1, 2, 0]
    assert text.numbers("b never a") == [2, 0, 1]


def test_unknown_in_a_text_is_a_word_like_others(written):
    text = written("unknown things unknown")
    assert text.vocabulary == ["unknown", "unknown", "things"]
    assert text.words.tolist() == [1, 2, 1]
    assert text.numbers("unknown") == [1]


def test_rows_are_the_text_in_order_cut_evenly_and_filled_with_their_batches_beginning(written):
    text = written(" ".join(f"w{n}" for n in range(22)))
    rows = words.rows(text, 2, 5)
    assert rows.shape == (6, 5), "22 words make three batches of at most ten"
    first, *_, last = rows.reshape(3, 10).tolist()
    assert first == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]
    assert last == [16, 17, 18, 19, 20, 21, 22, 16, 17, 18]


def test_a_short_text_fills_a_batch_again_and_again(written):
    assert words.rows(written("a b c"), 2, 3).tolist() == [[1, 2, 3], [1, 2, 3]]


def ranks(size):
    places = [world.Place("node", "m", frozenset({0}), 1)] * size
    return [world.World(rank, places) for rank in range(size)]


def test_each_epoch_shuffles_the_batches_and_deals_each_out_to_the_ranks_in_order():
    one = words.order(60, 12, ranks(1)[0], seed=1, epoch=0)
    assert one.shape == (5, 12)
    assert np.array_equal(np.sort(one[:, 0]), np.arange(0, 60, 12))
    assert np.array_equal(one, one[:, :1] + np.arange(12))
    for size in (2, 3):
        dealt = [words.order(60, 12 // size, rank, seed=1, epoch=0) for rank in ranks(size)]
        assert np.array_equal(np.concatenate(dealt, axis=1), one)
    assert not np.array_equal(words.order(60, 12, ranks(1)[0], seed=1, epoch=1), one)


def test_without_shakespeare_in_the_data_directory_the_sonnets_are_read_and_every_word_is_kept(
    tmp_path, monkeypatch
):
    with pytest.raises(LabError, match=r"has no shakespeare/complete_works.txt: name the directory"):
        words.text(tmp_path, None, None)
    monkeypatch.setenv("MINSKY_DATA_DIR", str(tmp_path))
    for directory in (None, tmp_path):
        text = words.text(directory, None, None)
        assert text.name == "sonnets"
        assert "no shakespeare/complete_works.txt in the data directory" in text.description
        assert text.words.min() > 0
    assert "thou art more lovely and more temperate rough winds" in said(text)


def test_the_sonnets_are_31_of_14_lines():
    sonnets = words.SONNETS.read_text().strip().split("\n\n")
    assert [len(sonnet.splitlines()) for sonnet in sonnets] == [14] * 31
    assert len(words.text(None, None, None).words) > 3000


def test_the_complete_works_give_the_words_of_the_notebooks_rerun():
    data = Path(os.environ.get("MINSKY_DATA", ""))
    if not (data / words.STAGED).exists():
        pytest.skip("set MINSKY_DATA to the directory that holds shakespeare/complete_works.txt")
    text = words.text(data, None, None)
    assert (text.name, len(text.words), len(text.vocabulary)) == ("shakespeare", 937_189, 8_233)
    assert len(words.rows(text, 100, 50)) == 188 * 100
    assert np.mean(text.words == 0) == pytest.approx(0.043, abs=5e-4)


def test_a_text_that_cannot_be_used_is_refused_with_what_to_do(tmp_path, written):
    for content, reason in ((b"caf\xe9", "can't decode"), (b"\xff\xfe\0a", "can't decode")):
        with pytest.raises(LabError, match=f"mine.txt cannot be read as text .*{reason}.*UTF-8 with --text"):
            written(content)
    for missing in ("none.txt", "."):
        with pytest.raises(LabError, match="cannot be read as text"):
            words.text(None, tmp_path / missing, None)
    with pytest.raises(LabError, match=r"has 3 words and none of them more than 5 times.*smaller --rare"):
        written("to be or", rare=5)
    with pytest.raises(LabError, match="has 0 words"):
        written(" \n", rare=0)
    with pytest.raises(LabError, match="has 3 words, but a row takes 50: use a longer --text"):
        words.rows(written("to be or"), 100, 50)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--clip", "0"], "'0' is not a number from 1e-09"),
        (["--rare", "-1"], "'-1' is not a whole number of 0 or more"),
        (["--optimizer", "adam"], "unrecognized arguments: --optimizer adam"),
    ],
)
def test_a_wrong_option_of_the_lab_costs_a_sentence(arguments, reason):
    command = [sys.executable, "-m", "labs.lstm", *arguments]
    done = subprocess.run(command, cwd=JOBS, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(re.escape(reason), done.stderr)
