"""`nvidia-smi -q`: everything about each GPU, of which the topology takes who it is and its memory."""

from __future__ import annotations

import re

from minsky.gpus.model import GPU, Topology, bus_id
from minsky.gpus.query import BROKEN
from minsky.gpus.text import ADDRESS, Text

SOURCE = "-q"
HEAD = re.compile(rf"\s*GPU {ADDRESS}\s*(?::\s*(.*))?", re.IGNORECASE)
ATTACHED = re.compile(r"\s*Attached GPUs\s*:\s*([0-9]{1,3})\s*", re.ASCII)
VALUE = re.compile(r"\s*(.+?)\s+:\s*(.*?)\s*")
MEMORY = re.compile(r"([0-9]{1,8}) Mi?B", re.ASCII)
LAST_SECTIONS = ("Processes", "Compute Processes")


def recognises(text: Text) -> bool:
    """Whether *text* has the title, the number of GPUs, or a GPU's heading."""
    return any(
        "NVSMI LOG" in line or ATTACHED.fullmatch(line) or HEAD.fullmatch(line) for _, line in text.lines
    )


def parse(text: Text) -> Topology:
    """Return the GPUs in *text*; those of `-q -d SECTION` have what that section tells."""
    topology = Topology(SOURCE)
    attached: tuple[int, int] | None = None
    blocks: list[list[tuple[int, str]]] = []  # a GPU's lines, its heading first
    for number, line in text.lines:
        count = ATTACHED.fullmatch(line)
        if count and attached:
            topology.problem(number, "the log begins a second time: only the first is read")
            break
        if count:
            attached = int(count[1]), number
        elif HEAD.fullmatch(line):
            blocks.append([(number, line)])
        elif blocks:
            blocks[-1].append((number, line))
    full = any(line.strip().startswith("Product Name") for _, line in text.lines)
    topology.gpus = [_gpu(topology, index, block, text.last, full) for index, block in enumerate(blocks)]
    if attached and attached[0] != len(blocks):
        topology.problem(
            attached[1], f"{attached[0]} GPUs are attached, {len(blocks)} told of: the others are missing"
        )
    elif not attached:
        topology.problem(text.lines[0][0], "no number of attached GPUs: the text's beginning is missing")
    topology.check_unique({index: block[0][0] for index, block in enumerate(blocks)})
    return topology


def _gpu(topology: Topology, index: int, block: list[tuple[int, str]], last: int, full: bool) -> GPU:
    """Return the GPU of a *block* of lines; a *full* log tells its processes at the end."""
    head = HEAD.fullmatch(block[0][1])
    gpu = GPU(index, bus_id=bus_id(head[1]) if head else None)  # they are listed by index
    if head and head[2]:
        topology.problem(block[0][0], f"GPU {gpu.bus_id} does not answer: {head[2]}")
    section, ended = "", False
    for number, line in block[1:]:
        value = VALUE.fullmatch(line)
        key, told = (value[1], value[2]) if value else (line.strip(), "")
        section = section if value else key
        ended = ended or key in LAST_SECTIONS
        if BROKEN.fullmatch(told):
            topology.problem(number, f"GPU {index}, {key}: {told}")
        elif number != last:  # where a value may be cut
            _take(gpu, section, key, told)
    if not ended and (full or not VALUE.fullmatch(block[-1][1])):  # `-q -d` ends on a value of any kind
        topology.problem(block[-1][0], f"GPU {index} ends too early: the text is cut off")
    return gpu


def _take(gpu: GPU, section: str, key: str, told: str) -> None:
    memory = MEMORY.fullmatch(told)
    if key == "Product Name" and told != "N/A":
        gpu.model = gpu.model or told
    elif key == "GPU UUID" and told.startswith("GPU-"):
        gpu.uuid = gpu.uuid or told
    elif section == "FB Memory Usage" and key == "Total" and memory:
        gpu.memory_mib = int(memory[1])
