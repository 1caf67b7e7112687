"""A text as numbers: its words, cleaned and counted, and the rows of them that a training reads."""

import os
import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labs.labkit import LabError
from labs.labkit.world import World

UNKNOWN = "unknown"  # stands for all words that are too rare to be learnt; its number is 0
SONNETS = Path(__file__).with_name("sonnets.txt")  # 31 of Shakespeare's, 3,485 words
STAGED = Path("shakespeare", "complete_works.txt")
RARE = {"sonnets": 0}  # words seen so often or less are unknown; of other texts 5, as in the notebook

# as in the notebook, with its slip: a backslash is kept, since here it only quotes the bracket behind it
PUNCTUATION = re.compile(f"[{string.punctuation.replace('-', '').replace(chr(39), '')}]")


@dataclass(frozen=True)
class Text:
    """A text: its *words* (n,) in numbers, and the *vocabulary* that has the word of each number."""

    name: str
    description: str
    words: npt.NDArray[np.int32]
    vocabulary: list[str]

    def numbers(self, words: str) -> list[int]:
        """Numbers of some *words*; 0 for one that is not in the vocabulary."""
        number = {word: place for place, word in enumerate(self.vocabulary) if place}
        return [number.get(word, 0) for word in words.split()]


def text(directory: Path | None, chosen: Path | None, rare: int | None) -> Text:
    """Return the text *chosen*, or the staged Shakespeare from *directory*, or the embedded sonnets.

    Words seen *rare* times or less are unknown; None: as often as suits the text.

    Raises:
        LabError: the text cannot be read, or has no word that is not rare.
    """
    staged = directory / STAGED if directory else STAGED
    if chosen:
        name, file, description = chosen.name, chosen, str(chosen)
    elif staged.exists():
        name, file, description = "shakespeare", staged, "Shakespeare's complete works"
    elif directory and str(directory) != os.environ.get("MINSKY_DATA_DIR"):
        raise LabError(
            f"{directory} has no {STAGED}: name the directory that has it, or leave --data-dir away, for the "
            "sonnets where the usual one has none either"
        )
    else:
        name, file = "sonnets", SONNETS
        description = f"31 sonnets (no {STAGED} in the data directory)"
    try:
        content = file.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise LabError(f"{file} cannot be read as text ({error}): name one in UTF-8 with --text") from error
    # The notebook deletes newlines, and so glues words of two lines where the second begins with no blank.
    words = clean(content, between="" if file == staged else " ").split()
    least = RARE.get(name, 5) if rare is None else rare
    vocabulary = [UNKNOWN, *(word for word, count in Counter(words).items() if count > least)]
    if len(vocabulary) == 1:
        raise LabError(
            f"{file} has {len(words)} words and none of them more than {least} times, so there is nothing to "
            "learn: use a longer --text, or a smaller --rare",
        )
    number = {word: place for place, word in enumerate(vocabulary) if place}
    return Text(name, description, np.array([number.get(word, 0) for word in words], np.int32), vocabulary)


def clean(content: str, *, between: str) -> str:
    """Return *content* in lower case, without punctuation except - and ', with *between* for its newlines."""
    return re.sub(r"\s+", " ", PUNCTUATION.sub(" ", content.replace("\n", between))).strip().lower()


def rows(text: Text, batch: int, length: int) -> npt.NDArray[np.int32]:
    """Cut *text* into rows (rows, length), of which each *batch* is a batch, as the notebook does.

    The text is cut evenly into so many batches that each has batch x length words at most, and what is
    missing to that is filled with the batch's own beginning; so is a whole batch of a short text.

    Raises:
        LabError: the text is too short for one row.
    """
    count = len(text.words)
    if count < length:
        raise LabError(f"{text.description} has {count} words, but a row takes {length}: use a longer --text")
    parts = np.array_split(text.words, count // (batch * length) + 1)
    return np.concatenate([np.resize(part, (batch, length)) for part in parts])


def order(rows: int, share: int, world: World, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Rows that this rank of *world* reads in *epoch*: indices of shape (steps, share).

    Batches are shuffled, alike on all ranks, and rows are not: each batch is dealt out to the ranks in order.
    """
    batches = np.arange(rows).reshape(-1, world.size, share)
    return np.random.default_rng([seed, epoch]).permutation(batches)[:, world.rank]
