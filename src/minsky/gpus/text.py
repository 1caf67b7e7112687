"""A recording's lines without what terminals, shells, documents and failing GPUs put between them."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

from minsky.gpus.model import Problem, bus_id

# Newer drivers underline the header of `topo -m`; terminals that are recorded set titles as well.
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Z]|[=>])")
COMMAND = re.compile(r"\b(?:nvidia-smi|lscpu|numactl)\b")
TYPED = re.compile(  # behind a prompt, or alone with its options
    rf"^\s*(?:.{{0,99}}?[$#%>+\u276f\u279c]\s.{{0,99}}?{COMMAND.pattern}"
    rf"|(?:(?:sudo|srun)\s.{{0,99}}?)?(?:\S{{0,99}}/)?{COMMAND.pattern}(?:\s+-?\w[^:]*)?:?\s*$)"
)
NOISE = re.compile(
    r"^\s*(```.*|~~~.*|Script (?:started|done) .*"
    r"|(?:\([^)]{1,40}\)\s?)?(\[[^\]]{0,99}\]|\S{1,99}@\S{1,99}(?:\s\S{1,99})?)\s?[$#%])\s*$"
)
LEFT_OUT = re.compile(r"^\s*(?:[\[<(]?(?:snip|\.{3,}|\u2026)[\])>]?)\s*$", re.IGNORECASE)
ADDRESS = r"([0-9a-f]{4,8}:[0-9a-f]{1,2}:[0-9a-f]{1,2}\.[0-9a-f])"
# In five spellings: with the index, with the address, with both, with neither blank nor preamble.
LOST = [
    re.compile(rf"device handle for gpu\s?(?:[0-9]{{1,3}}\s?:\s?)?{ADDRESS}\s?:\s*(.*)", re.IGNORECASE),
    re.compile(
        rf"^gpu\s?(?:[0-9]{{1,3}}\s?:\s?)?{ADDRESS}\s?:\s*(gpu is lost|unknown error|not found)",
        re.IGNORECASE,
    ),
    re.compile(r"device handle for gpu\s?([0-9]{1,3})\s?:\s*(.*)", re.IGNORECASE),
]
FAILED = re.compile(
    r"(NVIDIA-SMI (?:has failed|couldn't|could not)|Failed to initialize NVML|Driver/library version mismatch"
    r"|No devices (?:were )?found|Unable to (?:get|determine) .{0,40}GPU|No NUMA (?:support )?available)",
    re.IGNORECASE,
)


@dataclass
class Text:
    """Lines with their numbers, from 1; *failures* are what the driver says instead of data.

    *left_out* are the lines where whoever copied it says that some are missing: `...`, `[snip]`.
    """

    lines: list[tuple[int, str]] = field(default_factory=list)
    failures: list[Problem] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    ended: bool = True  # by the end of a line: else the last one may be cut

    @property
    def last(self) -> int:
        """Number of the last line that says something; 1 for an empty text."""
        return self.lines[-1][0] if self.lines else 1


def decode(content: bytes) -> str:
    """Return *content* as text; PowerShell's `>` writes UTF-16."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8", errors="replace")


def clean(text: str) -> Text:
    """Return *text*'s lines without escapes, quotation marks, comments, prompts and the driver's failures."""
    cleaned = Text(ended=text.endswith("\n"))
    raw = ESCAPE.sub("", text.replace("\0", "").lstrip("\ufeff")).replace("\xa0", " ").split("\n")
    commented = not any(line.strip() and not line.lstrip().startswith("#") for line in raw)
    for number, quoted in enumerate(raw, 1):
        line = quoted.rstrip("\r").removeprefix("> ")  # no blanks: a row of `topo -m` may end in empty cells
        if line.lstrip().startswith("#") and not line.startswith("# gpu "):
            line = line.lstrip()[1:] if commented and not line.startswith("# SOURCE") else ""
        if LEFT_OUT.match(line):
            cleaned.left_out.append(number)
            continue
        if not line.strip() or NOISE.match(line) or (COMMAND.search(line) and TYPED.match(line)):
            continue
        failure = _failure(line.strip())
        if failure:
            cleaned.failures.append(Problem(number, failure))
        else:
            cleaned.lines.append((number, line))
    return cleaned


def _failure(line: str) -> str | None:
    if "GPU" not in line.upper() and not FAILED.search(line):
        return None
    for pattern in LOST:
        match = pattern.search(line)
        if match:
            which = bus_id(match[1]) if ":" in match[1] else match[1]
            return f"GPU {which} does not answer: {match[2].strip() or 'no reason given'}"
    return line if FAILED.match(line) else None
