"""`nvidia-smi --query-gpu=FIELDS --format=csv`: a row per GPU, of the fields that were asked for.

Without the header (`noheader`) only what cannot be mistaken is read: an index, a PCI address, a UUID, a
number of MiB, a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from minsky.gpus.model import GPU, Topology, bus_id
from minsky.gpus.text import ADDRESS, Text

SOURCE = "--query-gpu --format=csv"
FIELD = re.compile(r"[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_]+)*(?: \[[A-Za-z%/]+\])?", re.ASCII)
KNOWN = {
    "index": "index", "name": "model", "gpu_name": "model", "uuid": "uuid", "gpu_uuid": "uuid",
    "pci.bus_id": "bus_id", "gpu_bus_id": "bus_id", "memory.total": "memory_mib",
}  # fmt: skip
OTHER_FIELDS = re.compile(
    r"(?:accounting|addressing|bar1|c2c|clocks|compute|count|display|driver|ecc|encoder|enforced|fabric|fan|gom"
    r"|gpu|gsp|hostname|inforom|memory|mig|module|pci|pcie|persistence|power|protected_memory|pstate|remapped_rows"
    r"|reset_status|retired_pages|serial|temperature|timestamp|utilization|vbios|vgpu)(?:[._].*|$)"
)
ABSENT = re.compile(r"\[?(?:N/A|Not Supported|Not Active|Insufficient Permissions)\]?", re.IGNORECASE)
BROKEN = re.compile(r"\[?(?:GPU is lost|Unknown Error|ERR!|.*GPU requires reset).*", re.IGNORECASE)
SHAPES = {
    "bus_id": re.compile(ADDRESS, re.IGNORECASE),
    "uuid": re.compile(r"GPU-[\w-]+", re.ASCII),
    "memory_mib": re.compile(r"[0-9]{2,8} MiB", re.ASCII),
    "index": re.compile(r"[0-9]{1,3}", re.ASCII),
    "model": re.compile(r"(?!GPU-)[A-Za-z][\w .()/+-]*", re.ASCII),
}
CONVERT: dict[str, Callable[[str], object]] = {
    "index": int, "model": str, "uuid": str, "bus_id": bus_id,
    "memory_mib": lambda cell: int(cell.removesuffix(" MiB")),
}  # fmt: skip


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")]


def _is_header(cells: list[str]) -> bool:
    fields = [cell.split(" [")[0] for cell in cells]
    known = [field in KNOWN or bool(OTHER_FIELDS.fullmatch(field)) for field in fields]
    newer = [known or "." in field for known, field in zip(known, fields)]
    return any(known) and all(newer) and all(FIELD.fullmatch(cell) for cell in cells)


def _is_row(cells: list[str]) -> bool:
    return len(cells) > 1 and any(
        SHAPES[shape].fullmatch(cell) for shape in ("bus_id", "uuid") for cell in cells
    )


def recognises(text: Text) -> bool:
    """Whether *text* has a header of known fields, or a row with a PCI address or a UUID."""
    return any(_is_header(cells) or _is_row(cells) for cells in (_cells(line) for _, line in text.lines))


def parse(text: Text) -> Topology:
    """Return the GPUs that *text*'s rows tell of."""
    topology = Topology(SOURCE)
    columns: list[str | None] | None = None
    rows: list[tuple[int, list[str]]] = []
    for number, line in text.lines:
        cells = _cells(line)
        if not _is_header(cells):
            columns = columns or _guess_free(cells)
            rows.append((number, cells))
        elif columns is None:
            columns = [KNOWN.get(cell.split(" [")[0]) for cell in cells]
        else:
            topology.problem(
                number, "a second header: this is more than one recording, only the first is read"
            )
            break
    columns = columns or []
    raw = [_row(topology, number, columns, cells) for number, cells in rows]
    lines = {position: number for position, (number, _) in enumerate(rows)}
    if not rows:
        topology.problem(text.last, "no row follows the header: the text is cut off, or no GPU answered")
    elif "index" in columns:
        topology.check_gaps(lines)
    elif text.failures:
        topology.problem(rows[0][0], "a GPU is lost and rows have no index: they are numbered as they stand")
    topology.check_unique(lines)
    _check_last(topology, text, raw)
    return topology


def _check_last(topology: Topology, text: Text, raw: list[dict[str, str]]) -> None:
    """Note cells that are shorter than those of other rows; *raw*: each row's known cells, as they stand."""
    for column in ("uuid", "memory_mib"):
        if len({form for row in raw if (form := _form(row.get(column, "")))}) > 1:
            topology.problem(text.last, f"{column} is not of one form in all rows: one of them is cut")
    for column in ("model", "memory_mib") if raw and not text.ended else ():
        cut, *others = (row.get(column, "") for row in reversed(raw))
        if any(other != cut and other.startswith(cut) for other in others):
            topology.problem(text.last, f"'{cut}' may be what is left of a longer {column}: the text is cut")


def _row(topology: Topology, number: int, columns: list[str | None], cells: list[str]) -> dict[str, str]:
    """Add the GPU of one row; returns its known cells, as they stand, by column."""
    if len(cells) != len(columns):
        topology.problem(
            number,
            f"{len(cells)} cells where {len(columns)} are expected: the row is cut, or none of this command",
        )
        cells = cells[: min(len(cells), len(columns)) - 1]
    row = {column: cell for column, cell in zip(columns, cells) if column}
    gpu = GPU(len(topology.gpus))
    topology.gpus.append(gpu)
    broken = [cell for cell in row.values() if BROKEN.fullmatch(cell)]
    for column, cell in row.items():
        if cell not in broken and not ABSENT.fullmatch(cell):
            _take(topology, gpu, number, column, cell)
    if broken:
        topology.problem(number, f"GPU {gpu.index} does not answer: {broken[0]}")
    return row


def _form(cell: str) -> str:
    """Return what a whole *cell* has in common with those of other rows: a UUID's length, a unit."""
    if SHAPES["uuid"].fullmatch(cell):
        return str(len(cell))
    return re.sub("[0-9]+", "1", cell) if cell[:1].isdigit() else ""


def _guess_free(cells: list[str]) -> list[str | None]:
    """Return which column is what, where there is no header: None where a shape fits twice or not at all."""
    shapes = [next((name for name, shape in SHAPES.items() if shape.fullmatch(cell)), None) for cell in cells]
    if "index" in shapes[1:]:  # a number behind others may be anything
        shapes = [None if position and shape == "index" else shape for position, shape in enumerate(shapes)]
    return [shape if shapes.count(shape) == 1 else None for shape in shapes]


def _take(topology: Topology, gpu: GPU, number: int, column: str, cell: str) -> None:
    unit = " MiB" if column == "memory_mib" and cell.isdecimal() else ""  # left out by `nounits`
    if SHAPES[column].fullmatch(cell + unit):
        setattr(gpu, column, CONVERT[column](cell))
    else:
        topology.problem(number, f"'{cell[:40]}' is no {column} of a GPU")
