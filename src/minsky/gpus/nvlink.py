"""`nvidia-smi nvlink --status` and `nvlink -g`: a GPU's own links, not where they lead.

Status gives a speed in GB/s per direction or <inactive> for each link, or for a GPU one sentence. The
counters of `-g` show which links there are, not whether they are up.
"""

from __future__ import annotations

import re

from minsky.gpus.listing import GPU_LINE
from minsky.gpus.model import GPU, NVLink, Topology
from minsky.gpus.text import Text

SOURCES = {"status": "nvlink --status", "counters": "nvlink -g"}
STATUS = re.compile(
    r"\s*Link ([0-9]{1,3}):\s*(?:([0-9]{1,4}(?:\.[0-9]{1,6})?) GB/s|(<inactive>|inactive))\s*",
    re.ASCII | re.IGNORECASE,
)
AMOUNT = r"(?:[0-9]{1,20} [A-Za-z]*(?:s|iB)|N/A)"  # of packets, KBytes, KiB; a cut unit is none
COUNTER = re.compile(
    rf"\s*Link ([0-9]{{1,3}}):\s*(?:Rx[0-9]: {AMOUNT}, Tx[0-9]: {AMOUNT}|(?:Data|Raw) [RT]x: {AMOUNT})\s*",
    re.ASCII,
)
VERDICT = re.compile(
    r"(?P<gpu>.*?)\s*(?:NVML: )?(?P<what>Unable to retrieve NVLink information.*"
    r"|Device does not (?:have or )?support NVLink.*)",
    re.IGNORECASE,
)


def recognises(text: Text) -> bool:
    """Whether *text* has a link's status or counters, or the sentence instead of them."""
    return any(
        "link" in line.lower() and (STATUS.fullmatch(line) or COUNTER.match(line) or VERDICT.match(line))
        for _, line in text.lines
    )


def parse(text: Text) -> Topology:
    """Return the GPUs in *text* with their links."""
    topology = Topology(SOURCES["status"])
    lines: dict[int, int] = {}
    judged: dict[int, bool] = {}  # by a sentence instead of links, at which position: whether it has any
    links: list[dict[int, NVLink]] = []  # of each GPU, by number
    for number, line in text.lines:
        verdict = VERDICT.fullmatch(line)
        head = GPU_LINE.fullmatch(verdict["gpu"] if verdict else line)
        if head:
            lines[len(links)] = number
            links.append({})
            topology.gpus.append(GPU(int(head[1]), model=head[2], uuid=head[3]))
        if verdict:
            judged[len(links) - 1] = unable = verdict["what"].lower().startswith("unable")
            if unable:
                of = f"GPU {topology.gpus[-1].index}" if topology.gpus else "no GPU is named"
                topology.problem(number, f"{of}: {verdict['what'].strip()}")
        elif not head:
            _link(topology, number, line, links)
    for position, (gpu, found) in enumerate(zip(topology.gpus, links)):
        gpu.nvlinks = None if judged.get(position, not found) else list(found.values())
        if not found and position not in judged:
            topology.problem(lines[position], f"no links follow GPU {gpu.index}: the text is cut off")
        elif found and sorted(found) != list(range(len(found))):
            topology.problem(lines[position], f"GPU {gpu.index} has links {sorted(found)}: some are missing")
    _check_last(topology, text.last)
    topology.check_unique(lines)
    topology.check_gaps(lines)
    return topology


def _link(topology: Topology, number: int, line: str, links: list[dict[int, NVLink]]) -> None:
    status, counter = STATUS.fullmatch(line), COUNTER.fullmatch(line)
    match = status or counter
    if not match:
        topology.problem(number, f"'{line.strip()[:40]}' is no line of this command, or cut off")
        return
    if not links:
        topology.problem(number, "a link before any GPU: the text's beginning is missing")
        return
    new = NVLink(int(match[1]))
    if status:
        new.gb_s, new.active = (float(status[2]) if status[2] else None), bool(status[2])
    else:
        topology.source = SOURCES["counters"]
    old = links[-1].setdefault(new.link, new)
    if old is not new and (status or old.active is not None):
        topology.problem(number, f"link {new.link} of GPU {topology.gpus[-1].index} comes a second time")


def _check_last(topology: Topology, last: int) -> None:
    """Note a last GPU with fewer links than all others of its model: it has them, or the text is cut."""
    if not topology.gpus:
        return
    gpu = topology.gpus[-1]
    others = [
        len(other.nvlinks) for other in topology.gpus[:-1] if other.nvlinks and other.model == gpu.model
    ]
    if gpu.nvlinks and others and len(gpu.nvlinks) < min(others):
        topology.problem(
            last,
            f"GPU {gpu.index}, the last, ends after {len(gpu.nvlinks)} links where the others have "
            f"{min(others)}: cut off, or really fewer; the text cannot tell",
        )
