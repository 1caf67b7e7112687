"""Put pictures that lie in directories, one for each class, into shards, from which ranks read them.

    sbatch -N 2 jobs/shards.sh DIRECTORY

DIRECTORY has train/CLASS/ and val/CLASS/ with pictures, as Imagenette, or CLASS/ alone. Each rank writes its
share of the shards, into shards-JOB/. What cannot be read is left out, by name. `transfer_learning.py` reads
them: --images shards-JOB.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from labs.labkit import LabError, options, pictures, result, world
from labs.labkit.lazy import hvd, tf
from labs.labkit.world import World, count


def knobs() -> options.Parser:
    """Options of this program."""
    parser = options.Parser("shards", "Writes pictures in directories into shards (TFRecord files).")
    parser.add_argument("directory", type=Path, help="holds train/CLASS/ and val/CLASS/, or CLASS/")
    parser.add_argument("--results", type=Path, help="directory to write to (default: shards-JOB)")
    parser.add_argument(
        "--shards", type=options.whole(1), default=16, help="files per part, at least one per rank"
    )
    return parser


def run(given: argparse.Namespace, ranks: World) -> None:
    """Write the shards, and say what is in them.

    Raises:
        LabError: there are no classes, a part has no picture that can be read, or shards cannot be written.
    """
    # Horovod: one rank looks into the directories, so that all share out the same list; it makes the new one.
    first = (pictures.listed(given.directory), _emptied(given.results)) if ranks.rank == 0 else None
    (classes, listed), target = hvd.broadcast_object(first)
    ranks.say(f"shards: {ranks.place}\n{given.directory}: {len(classes)} classes")
    work = [
        (part, number, some)
        for part in pictures.PARTS
        for number, some in enumerate(_dealt(listed[part], given.shards))
    ]
    mine = work[ranks.rank :: ranks.size]
    written, spoken = 0, time.monotonic()
    total = sum(len(some) for *_, some in mine)

    def told(done: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= result.EVERY:
            spoken = time.monotonic()
            ranks.say(f"picture {written + done:,}/{total:,} of rank 0")

    facts, skipped = [], []
    try:
        for part, number, some in mine:
            file = target / f"{part}-{number:05}.tfrecord"
            shard, left_out = pictures.write(file, some, ranks.threads, told)
            facts.append((part, number, shard))
            skipped += left_out
            written += len(some)
    except (OSError, tf.errors.OpError) as error:
        raise LabError(f"shards cannot be written to {target} ({error}): name another directory") from error
    # Horovod: what each rank wrote; until here no rank waited for another.
    every = hvd.allgather_object((facts, skipped))
    if ranks.rank > 0:
        return
    shards = sorted(shard for some, _ in every for shard in some)
    manifest = {part: [shard for where, _, shard in shards if where == part] for part in pictures.PARTS}
    for name in sorted(name for _, some in every for name in some):
        print(f"skipped: {name} cannot be read as {pictures.FORMATS}")
    for part, whole in manifest.items():
        if not sum(shard["pictures"] for shard in whole):
            raise LabError(f"no picture of {part} in {given.directory} can be read as {pictures.FORMATS}")
    result.write_json(target / pictures.MANIFEST, {"classes": classes} | manifest)
    spent = time.monotonic() - ranks.begun
    for part, whole in manifest.items():
        held, size = (sum(shard[key] for shard in whole) for key in ("pictures", "bytes"))
        print(f"  {part:<6} {held:,} pictures in {count(len(whole), 'shard')}, {size / 1e6:,.1f} MB")
    print(f"  {target} is whole after {spent:.1f} s, start of the ranks included")


def _emptied(chosen: Path | None) -> Path:
    """Make the directory for the shards; until all of them are whole there are none."""
    target = result.directory("shards", chosen)
    (target / pictures.MANIFEST).unlink(missing_ok=True)
    return target


def _dealt(some: list[tuple[bytes, int]], shards: int) -> list[list[tuple[bytes, int]]]:
    """Shuffle and deal out: the classes are spread over all shards."""
    order = np.random.default_rng(1).permutation(len(some))
    return [[some[index] for index in order[n::shards]] for n in range(min(shards, len(some)))]


if __name__ == "__main__":
    chosen = knobs().parse_args()
    with world.start() as all_ranks:
        run(chosen, all_ranks)
