"""`nvidia-smi -L`: a line per GPU, and indented below it one per MIG device."""

from __future__ import annotations

import re

from minsky.gpus.model import GPU, Topology
from minsky.gpus.text import Text

SOURCE = "-L"
GPU_LINE = re.compile(r"\s*GPU ([0-9]{1,3}): (.+?)\s*(?:\(UUID: (GPU-[\w-]+)\))?\s*", re.ASCII)
MIG_LINE = re.compile(r"\s*MIG (\S+)\s+Device\s+([0-9]{1,3}):\s*(?:\(UUID: (MIG-[\w/-]+)\))?\s*", re.ASCII)
NO_MIG = re.compile(r"\s*No MIG devices found", re.IGNORECASE)


def recognises(text: Text) -> bool:
    """Whether *text* has a line for a GPU."""
    return any(GPU_LINE.fullmatch(line) for _, line in text.lines)


def parse(text: Text) -> Topology:
    """Return the GPUs that *text* lists."""
    topology = Topology(SOURCE)
    lines: dict[int, int] = {}
    for number, line in text.lines:
        gpu, mig = GPU_LINE.fullmatch(line), MIG_LINE.fullmatch(line)
        if gpu and gpu[3]:
            lines[len(topology.gpus)] = number
            topology.gpus.append(GPU(int(gpu[1]), model=gpu[2], uuid=gpu[3]))
        elif gpu:  # the name may be cut, too
            lines[len(topology.gpus)] = number
            topology.gpus.append(GPU(int(gpu[1])))
            topology.problem(number, f"GPU {gpu[1]} has no UUID: the line is cut off")
        elif mig and mig[3] and topology.gpus:
            topology.gpus[-1].mig.append({"profile": mig[1], "uuid": mig[3]})
        elif mig:
            topology.problem(number, f"MIG device {mig[2]} has no {'UUID' if topology.gpus else 'GPU'} here")
        elif line.lstrip().startswith("MIG "):
            topology.problem(number, "a MIG device's line is cut off")
        elif not NO_MIG.match(line):
            topology.problem(number, f"'{line.strip()[:40]}' is no line of this command")
    topology.check_unique(lines)
    topology.check_gaps(lines)
    return topology
