"""Whatever the text, reading it gives a topology that holds together, or the one documented error."""

import json
from contextlib import suppress

from gpu_texts import P2P, WHOLE
from hypothesis import given, settings
from hypothesis import strategies as st

from minsky.gpus import RefusedError, Topology, parse

TEXTS = [P2P, *(text for texts in WHOLE.values() for text in texts)]
PIECES = [
    "GPU0", "GPU99", "NV2", " X ", "\t", "\n", "0-0,8-8", "99999-0", "0x" + "f" * 5000, "Link 0: ",
    "MiB", "(UUID: ", "\u0662", "\x85", "\0", "\x1b[4m", "N/A", "ERR!", "GPU is lost", "Legend:", "> ",
    "# ", ",", ":", "9" * 5000, "Attached GPUs : 3", "node 0 cpus: 1",
    "available: 1 nodes (0)", "index, name",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A recording, or two, whose characters and lines were cut, doubled, moved, replaced or added to."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        lines = text.split("\n")
        one, other = (draw(st.integers(0, len(text))) for _ in range(2))
        row = draw(st.integers(0, len(lines) - 1))
        text = draw(
            st.sampled_from(
                [
                    text[:one],
                    text[one:],
                    text[: min(one, other)] + text[max(one, other) :],
                    text[:one] + draw(st.sampled_from(PIECES)) + text[one:],
                    text[:one] + draw(st.text(max_size=4)) + text[other:],
                    "\n".join([*lines[:row], *lines[row + 1 :]]),
                    "\n".join([*lines[: row + 1], *lines[row:]]),
                    text + draw(st.sampled_from(TEXTS)),
                    " ".join(text.split(" ")),
                ]
            )
        )
    return text


def holds_together(read: Topology) -> None:
    shown = json.loads(json.dumps(read.as_json()))
    assert shown["complete"] == (not shown["problems"])
    lines = [problem["line"] for problem in shown["problems"]]
    assert lines == sorted(lines, key=lambda line: line or 0)
    assert all(problem["what"] for problem in shown["problems"])
    pairs = [(link["a"], link["b"]) for link in shown["links"]]
    assert len(set(pairs)) == len(pairs)
    assert all(a < b for a, b in pairs)
    assert {gpu for pair in pairs for gpu in pair} <= {gpu["index"] for gpu in shown["gpus"]}
    told = [frozenset((a, b)) for a, row in shown["paths"].items() for b in row]
    assert len(set(told)) == len(told)


def try_to_read(text: str) -> None:
    with suppress(RefusedError):
        read = parse(text)
        holds_together(read)
        assert all(1 <= (problem.line or 1) <= text.count("\n") + 1 for problem in read.problems)


@settings(max_examples=1200, deadline=None, derandomize=True)
@given(mutated())
def test_mutated_recordings_raise_nothing_else(text):
    try_to_read(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=30).map(" ".join))
def test_texts_of_no_command_raise_nothing_else(text):
    try_to_read(text)
