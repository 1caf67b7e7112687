"""`nvidia-smi topo -m`: the matrix of paths between GPUs and network adapters.

Drivers and copies differ in words (SOC is today's SYS), columns (adapters, CPU Affinity, NUMA Affinity, GPU
NUMA ID, none), separators (tabs, blanks, one blank) and legends; each line is therefore read by its words.
NV# is a bonded set of # NVLinks (nvidia-smi's legend). A link's `active` is its `count`: that links which are
down are not in the set is assumed, as no matrix recorded with one down has been found.
"""

from __future__ import annotations

import re

from minsky.gpus.model import GPU, NIC, Link, Topology, cpu_list
from minsky.gpus.text import Text

SOURCE = "topo -m"
PATH = re.compile(r"X|SYS|SOC|NODE|PHB|PXB|PIX|PSB|NV[0-9]{1,3}", re.ASCII)
P2P = re.compile(r"OK|CNS|GNS|TNS|NS|DR|U")
TODAY = {"SOC": "SYS"}
GPU_NAME = re.compile(r"GPU([0-9]{1,3})", re.ASCII)
DEVICE = re.compile(r"(?!NV[0-9]{1,3}$)[A-Za-z][\w.:-]*[0-9][\w.:-]*", re.ASCII)
COLUMN = re.compile(r"(CPU\s+Affinity|NUMA\s+Affinity|GPU\s+NUMA\s+ID)", re.IGNORECASE)
COLUMN_WORDS = {"CPU", "NUMA", "AFFINITY", "GPU", "ID"}
AFFINITY = re.compile(r"[0-9,-]+|N/A", re.ASCII)
LEGEND = re.compile(r"\s*(?:NIC )?Legend\s*:|\s*\S{1,4}\s+= ", re.IGNORECASE)
ABSENT = re.compile(r"\t\t(?=N/A)")  # drivers put two tabs before it
OTHERS = re.compile(r"\s*(?:GPU [0-9]|Link [0-9]+:|Attached GPUs|On-line CPU|available: |\+-{9}|index,)")
NIC_LEGEND = re.compile(r"\s*(NIC[0-9]{1,3})\s*:\s*(\S+)\s*", re.ASCII)


def is_header(words: list[str]) -> bool:
    """Whether a line of these *words* names the matrix's columns."""
    return bool(words and GPU_NAME.fullmatch(words[0])) and all(map(_names_column, words))


def is_row(words: list[str]) -> bool:
    """Whether a line of these *words* is a device's row, of this matrix or of `topo -p2p`'s."""
    return (
        len(words) > 1
        and bool(DEVICE.fullmatch(words[0]))
        and bool(PATH.fullmatch(words[1]) or P2P.fullmatch(words[1]))
    )


def is_p2p(text: Text) -> bool:
    """Whether *text* is `topo -p2p`, whose matrix looks alike and says something else."""
    cells = [word for _, line in text.lines if is_row(line.split()) for word in line.split()[1:]]
    legend = any(re.match(r"\s*(?:OK|CNS|GNS|TNS)\s*=", line) for _, line in text.lines)
    paths = any(PATH.fullmatch(cell) and cell != "X" for cell in cells)
    return not paths and (legend or any(P2P.fullmatch(cell) for cell in cells))


def recognises(text: Text) -> bool:
    """Whether *text* has a GPU's row of the matrix, or its header."""
    split = [line.split() for _, line in text.lines]
    return any(
        GPU_NAME.fullmatch(words[0]) and (is_row(words) or (len(words) > 1 and is_header(words)))
        for words in split
    )


def parse(text: Text) -> Topology:
    """Return what the matrix in *text* tells."""
    topology = Topology(SOURCE)
    header = ""
    matrix: _Matrix | None = None
    rows: list[tuple[int, str]] = []
    devices: dict[str, str] = {}
    legend = False
    for number, line in text.lines:
        words = line.split()
        nic = NIC_LEGEND.fullmatch(line)
        if nic:
            devices[nic[1]] = nic[2]
        elif (rows or legend) and (more := _another(line, words)):
            topology.problem(number, more)
            break
        elif legend or LEGEND.match(line):
            legend = True
        elif not rows and (header or is_header(words)) and all(map(_names_column, words)):
            header += f" {line}"  # which may have been wrapped
        elif is_row(words) or (matrix and words[0] in matrix.devices):
            matrix = matrix or _Matrix(topology, number, header, text.last)
            rows.append((number, line))
        elif rows and all(PATH.fullmatch(word) or AFFINITY.fullmatch(word) for word in words):
            rows[-1] = rows[-1][0], f"{rows[-1][1].rstrip()} {line.strip()}"  # a wrapped row
        else:
            topology.problem(number, f"'{line.strip()[:40]}' is no line of this command")
    matrix = matrix or _Matrix(topology, text.last, header, text.last)
    for number, line in rows:
        matrix.row(number, line)
    matrix.conclude(rows[-1][0] if rows else text.last)
    for each in topology.nics:
        each.device = devices.get(each.name)
    return topology


def _names_column(word: str) -> bool:
    return bool(DEVICE.fullmatch(word)) or word.upper() in COLUMN_WORDS


def _another(line: str, words: list[str]) -> str:
    """Say what begins behind a matrix in *line*; "" where nothing does."""
    if is_header(words):
        return "a second header: this is more than one recording, only the first is read"
    return "another command's output begins here: only the matrix is read" if OTHERS.match(line) else ""


def _cells(rest: str, columns: list[str]) -> list[str]:
    """Return what stands in *columns* behind the matrix, or its words where tabs do not show that."""
    cells = [cell.strip() for cell in ABSENT.sub("\t", rest).split("\t")[1:]]
    if columns[-1:] == ["GPU NUMA ID"] and len(cells) > len(columns) and not cells[-2]:
        del cells[-2]  # this column stands behind two tabs
    while len(cells) > len(columns) and not cells[-1]:
        cells.pop()
    words = rest.split()
    return cells if len(cells) == len(columns) and len(words) == sum(map(bool, cells)) else words


class _Matrix:
    """What was read of a matrix so far."""

    def __init__(self, topology: Topology, number: int, header: str, last: int) -> None:
        self.topology, self.last = topology, last  # the text's last line, which may be cut
        self.empty: set[str] = set()  # GPUs whose row shows that there are no CPUs near them
        found = COLUMN.split(header)
        self.columns = [" ".join(column.upper().split()) for column in found[1::2]]
        words = " ".join(found[::2]).split()
        self.devices = [word for word in dict.fromkeys(words) if DEVICE.fullmatch(word)]
        self.gpus = {name: GPU(int(match[1])) for name in self.devices if (match := GPU_NAME.fullmatch(name))}
        self.rows: dict[str, int] = {}  # device -> line
        self.cells: dict[tuple[str, str], tuple[str, int]] = {}
        if not header:
            topology.problem(number, "no header before this line: which columns these are cannot be told")
        elif len(self.devices) < len(words):
            topology.problem(number, "the header before this line names a column twice, or half of one")

    def row(self, number: int, line: str) -> None:
        """Take the row of one device."""
        spans = list(re.finditer(r"\S+", line))
        name, *words = (span[0] for span in spans)
        wanted = len(self.devices)
        if name in self.rows:
            self.topology.problem(number, f"{name} has a second row: this is more than one recording")
            return
        self.rows[name] = number
        if name not in self.devices:
            if GPU_NAME.fullmatch(name):
                self.gpus[name] = GPU(int(name[3:]))
            if self.devices:
                self.topology.problem(number, f"{name} has a row and no column")
        elif len(words) < wanted:
            self.topology.problem(number, f"{name}'s row has {len(words)} of {wanted} cells: it is cut off")
            self.take(number, name, words[:-1])  # what looks like NV1 may be left of NV12
        else:
            self.take(number, name, words)
            if name in self.gpus:
                self.affinity(self.gpus[name], number, line[spans[wanted].end() :])
            elif len(words) > wanted:
                self.topology.problem(number, f"{name}'s row has {len(words) - wanted} cells too many")

    def take(self, number: int, name: str, cells: list[str]) -> None:
        """Take a row's *cells*, as far as they go."""
        for device, cell in zip(self.devices, cells):
            if not PATH.fullmatch(cell):
                self.topology.problem(
                    number, f"'{cell}' between {name} and {device} is no path like SYS or NV2"
                )
            elif (cell == "X") != (name == device):
                self.topology.problem(
                    number, f"'{cell}' stands between {name} and {device}: cells are missing"
                )
            elif name != device:
                self.cells[name, device] = TODAY.get(cell, cell), number

    def affinity(self, gpu: GPU, number: int, rest: str) -> None:
        """Take what stands behind the matrix: tabs show which cells are empty, blanks do not."""
        columns, words = self.columns, rest.split()
        cells = _cells(rest, columns)
        if len(cells) != len(columns) and set(words) <= {"N/A"} and (words or number < self.last):
            return  # whichever columns these are, nothing is told
        if len(cells) != len(columns):
            self.topology.problem(
                number,
                f"GPU{gpu.index} has {len(cells)} cells behind the matrix, the header {len(columns)}: "
                "which is which cannot be told",
            )
            return
        for place, (column, cell) in enumerate(zip(columns, cells)):
            numbers = () if cell in ("", "N/A") else cpu_list(cell)
            whole = bool(cell) or number < self.last or any(cells[place:])
            if numbers is None or not (whole or column == "CPU AFFINITY"):
                self.topology.problem(
                    number, f"'{cell[:40]}' is no list of numbers ({column}, GPU{gpu.index})"
                )
            elif column == "CPU AFFINITY":
                gpu.cpu_affinity = list(numbers)
                self.empty |= {f"GPU{gpu.index}"} if whole and not numbers else set()
            elif column == "NUMA AFFINITY":
                gpu.numa = list(numbers)
            elif numbers:
                gpu.numa_id = numbers[0]

    def conclude(self, last: int) -> None:
        """Put GPUs, adapters and pairs into the topology; note which rows are missing."""
        topology = self.topology
        missing = [name for name in self.devices if name not in self.rows]
        if missing:
            topology.problem(last, f"no row for {', '.join(missing)}: the text ends too early")
        topology.gpus = sorted(self.gpus.values(), key=lambda gpu: gpu.index)
        topology.nics = [NIC(name) for name in self.devices if name not in self.gpus]
        topology.check_gaps(dict.fromkeys(range(len(topology.gpus)), min(self.rows.values(), default=last)))
        for position, a in enumerate(self.devices):
            for b in self.devices[position + 1 :]:
                self.pair(a, b)
        topology.links.sort(key=lambda link: (link.a, link.b))
        self.same_cpus()

    def pair(self, a: str, b: str) -> None:
        """Take what lies between two devices, if both rows say the same."""
        there, back = self.cells.get((a, b)), self.cells.get((b, a))
        if there and back and there[0] != back[0]:
            self.topology.problem(
                back[1], f"{b} to {a} is {back[0]}, but {there[0]} in line {there[1]}: neither is taken"
            )
            return
        known = there or back
        if not known:
            return
        self.topology.paths.setdefault(a, {})[b] = known[0]
        if known[0].startswith("NV") and a in self.gpus and b in self.gpus:
            low, high = sorted((self.gpus[a].index, self.gpus[b].index))
            self.topology.links.append(Link(low, high, int(known[0][2:]), int(known[0][2:])))

    def same_cpus(self) -> None:
        """Note GPUs near one NUMA node whose CPUs differ, or which alone have none: one list was cut.

        In a job's or a container's cpuset the CPUs near some GPUs may all be missing; tabs show that.
        """
        first: dict[tuple[int, ...], GPU] = {}
        rows = [gpu for gpu in self.topology.gpus if f"GPU{gpu.index}" in self.rows]
        some = any(gpu.cpu_affinity for gpu in rows)
        for gpu in rows:
            if some and not gpu.cpu_affinity and f"GPU{gpu.index}" not in self.empty:
                self.topology.problem(
                    self.rows[f"GPU{gpu.index}"],
                    f"GPU{gpu.index} has no CPUs and others have: its row is cut",
                )
            for other in first.values():
                shared = set(gpu.cpu_affinity) & set(other.cpu_affinity)
                same, near = gpu.cpu_affinity == other.cpu_affinity, gpu.numa == other.numa
                number = self.rows[f"GPU{gpu.index}"]
                if shared and same != near and (near or number == self.last):
                    self.topology.problem(
                        number,
                        f"GPU{gpu.index} and GPU{other.index} share some CPUs"
                        f"{' and not all' if near else ', not their NUMA nodes'}: one list is cut",
                    )
                    break
            first.setdefault(tuple(gpu.cpu_affinity), gpu)
