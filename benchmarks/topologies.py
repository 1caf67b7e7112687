"""How fast recordings are read: `python benchmarks/topologies.py [DIR]`; the figure in docs/performance.md.

Texts of every kind are parsed until there are 10,000, or those in DIR (*.txt). What the machine does at the
same time cancels out of the ratio to splitting the same texts into words, which is the least any reader does.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from minsky.errors import MinskyError, speak_plainly
from minsky.gpus import RefusedError, parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
TEXTS = 10_000
LIMIT = 10.0  # seconds for all of them


def dgx() -> str:
    """Return the matrix of 8 GPUs and 10 adapters: 4 kB, as large as they come."""
    names = [*(f"GPU{i}" for i in range(8)), *(f"NIC{i}" for i in range(10))]
    lines = ["\t" + "\t".join(names) + "\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID"]
    for name in names:
        cells = [
            " X " if other == name else "NV18" if name[0] == other[0] == "G" else "SYS" for other in names
        ]
        lines.append("\t".join([name, *cells, *(["0-55,112-167", "0", "", "N/A"] if name[0] == "G" else [])]))
    return "\n".join(lines) + "\n"


def seconds(work: Callable[[str], object], texts: list[str]) -> float:
    """Return how long *work* on all *texts* takes."""
    start = time.perf_counter()
    for text in texts:
        with suppress(RefusedError):
            work(text)
    return time.perf_counter() - start


def main() -> int:
    """Parse, and say how long it took beside the limit."""
    if len(sys.argv) > 1:
        some = [file.read_text(errors="replace") for file in sorted(Path(sys.argv[1]).glob("*.txt"))]
    else:
        from gpu_texts import WHOLE  # noqa: PLC0415 - it lies beside the tests

        some = [dgx(), *(text for texts in WHOLE.values() for text in texts)]
    if not some:
        raise MinskyError(f"{sys.argv[1]} holds no *.txt: name a directory of recordings")
    texts = list(islice((text for _ in range(TEXTS) for text in some), TEXTS))
    parsing, splitting = (
        seconds(parse, texts),
        seconds(lambda text: [line.split() for line in text.split("\n")], texts),
    )
    size = sum(map(len, texts)) / len(texts)
    verdict = "within" if parsing <= LIMIT else "MORE THAN"
    print(
        f"{TEXTS:,} texts of {len(some)} kinds, {size:,.0f} characters each: {parsing:.1f} s, {verdict} "
        f"{LIMIT:g} s; {parsing / splitting:.0f} times what splitting into words takes ({splitting:.2f} s)"
    )
    return int(parsing > LIMIT)


if __name__ == "__main__":
    sys.exit(speak_plainly(main))
