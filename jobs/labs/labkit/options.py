"""Knobs that the labs share, and their types."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from labs.labkit.world import let_rank_0_speak


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; a wrong option is refused in one voice, not in N."""

    def __init__(self, lab: str, description: str) -> None:
        super().__init__(prog=lab, description=description, allow_abbrev=False, formatter_class=_Help)
        self.published: dict[str, Any] = {}

    def add_published(self, meaning: str, **values: Any) -> None:
        """Add --as-published, with which *values* are the defaults of the options so called."""
        self.add_argument("--as-published", action="store_true", help=meaning)
        self.published = values

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse; with --as-published once more, so that what was typed beside it counts."""
        words = sys.argv[1:] if args is None else list(args)
        given = super().parse_args(words, namespace)
        if self.published and given.as_published:
            self.set_defaults(**self.published)
            given = super().parse_args(words, namespace)
        return given

    def error(self, message: str) -> NoReturn:
        """Print usage and *message*, exit with status 2."""
        let_rank_0_speak(2)
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message} (--help explains every option)", file=sys.stderr, flush=True)
        sys.exit(2)


def whole(smallest: int) -> Callable[[str], int]:
    """Argument type: a whole number, *smallest* or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {smallest} or more")
        return int(text)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Argument type: a number from *low* up to, and without, *high*."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value < high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to below {high:g}")
        return value

    return parse


def add_length(parser: Parser, usual: str) -> None:
    """Add the knobs for the length of a training; *usual*: in words, without them."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=whole(1), help=f"times through the training data; {usual}")
    length.add_argument("--steps", type=whole(1), help="train for so many steps instead")


def add_batch(parser: Parser, usual: int) -> None:
    """Add the knobs for the size of a batch."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--batch-size", type=whole(1), default=usual, help="samples per rank and step")
    size.add_argument("--global-batch-size", type=whole(1), help="samples per step, all ranks together")


def add_common(parser: Parser) -> None:
    """Add the knobs that every lab has."""
    parser.add_argument("--seed", type=whole(0), default=1, help="start of every random choice")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("MINSKY_DATA_DIR"),
        help="directory that holds the data sets, mnist/ and so on; default from $MINSKY_DATA_DIR",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help="directory for results, plot and checkpoints; training continues from a checkpoint found there "
        "(default: LAB-JOB, beside the job's output)",
    )
