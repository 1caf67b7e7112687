"""GPUs: what the class states of them, and the state that nvidia-smi and the kernel's log tell."""

from __future__ import annotations

import re

from minsky.gpus.live import live
from minsky.gpus.model import merge
from minsky.gpus.query import BROKEN
from minsky.nodecheck.check import FAILED, OK, WARNING, Failure, Finding, check, output, verdict
from minsky.nodecheck.checks.processors import compared
from minsky.nodecheck.node import SMI, Node

SECONDS = 8.0  # a driver without persistence takes its time
LEFT_MIB = 1024  # more than what a driver keeps for itself
XID = re.compile(  # with MIG, the instance stands behind the address
    r"^(?:\[\s*([0-9.]+)\])?.*NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)[^)\n]*\): ([0-9]+)", re.MULTILINE
)
XID_HOURS = 24
BY_PROGRAMS = {13, 31, 43, 45}  # faults of the program on the GPU, and how its channels are torn down
NOT_YET = {63, 94}  # a bad page is noted, an error contained: the GPU works on, and wants a reset
# Bits of nvmlClocksEventReasons: what slows a GPU that has work and is not meant to be slow.
SLOW = {0x8: "hardware", 0x20: "too hot (software)", 0x40: "too hot (hardware)", 0x80: "power brake"}
POWER_CAP = 0x4


def gpus_of(node: Node) -> str:
    """Say why this node has no GPUs to check."""
    return "" if node.node_class else "class none has no GPUs"


def wired(node: Node) -> str:
    """Say why this node has no NVLinks."""
    return "" if node.node_class and node.node_class.gpu.nvlinks else "the class has no NVLinks"


def wired_to_cpu(node: Node) -> str:
    """Say why this node has no NVLinks between GPU and CPU."""
    return "" if node.node_class and node.node_class.gpu.to_cpu else "no NVLink to the CPU in this class"


def clocked(node: Node) -> str:
    """Say why no application clocks are expected."""
    return gpus_of(node) or ("" if node.clocks else "the node file states no clocks")


def smi(*fields: str) -> list[dict[str, str]]:
    """Return *fields* of each GPU as nvidia-smi's query words them, without units; `index` is among them."""
    names = ("index", *fields)
    text = output("nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    odd = next((row for row in rows if len(row) != len(names)), None)
    if odd or not rows:
        raise Failure(f"nvidia-smi: {','.join(odd) if odd else 'no GPU answers'}")
    lost = next((row for row in rows for cell in row if BROKEN.fullmatch(cell)), None)
    if lost:
        raise Failure(f"GPU {lost[0]} does not answer: {', '.join(lost[1:])}")
    return [dict(zip(names, row)) for row in rows]


def each(rows: list[dict[str, str]], *fields: str) -> str:
    """Return *fields* of all GPUs in words: one value where all agree, else which GPUs have which."""
    values: dict[str, list[str]] = {}
    for row in rows:
        values.setdefault(", ".join(row[field] for field in fields), []).append(row["index"])
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"GPU {','.join(gpus)}: {value}" for value, gpus in values.items())


def _judged(node: Node, rows: str) -> Finding:
    if node.recorded is not None:
        return compared(merge(node.told(SMI)), node, rows)
    output("nvidia-smi", "-L")  # says in fewer words that there is no driver
    return compared(live(), node, rows)


@check("see dmesg; load the driver (modprobe nvidia), install it anew after a kernel update, or reboot",
       applies=gpus_of, seconds=SECONDS, recorded=SMI)  # fmt: skip
def driver(node: Node) -> Finding:
    """The driver answers for every GPU."""
    if node.recorded is not None:
        failures = [each.problems[0].what for each in node.told(SMI) if each.source == "nvidia-smi"]
        found = failures[0] if failures else "it answered when this was recorded"
        return verdict("the driver answers", found, good=not failures)
    rows = smi("driver_version")
    return Finding("the driver answers", f"{each(rows, 'driver_version')}, {len(rows)} GPUs")


@check("a GPU that is lost comes back by a power cycle; else reseat it, or correct the node's class",
       applies=gpus_of, seconds=SECONDS, recorded=SMI)  # fmt: skip
def gpus(node: Node) -> Finding:
    """Number, model, memory and places of the GPUs as the class states."""
    return _judged(node, "GPUs|model|memory of each|PCI addresses")


@check("reset the GPUs (nvidia-smi -r) or reboot; a link that stays down is hardware: reseat the GPU",
       applies=wired, seconds=SECONDS, recorded=SMI)  # fmt: skip
def nvlinks(node: Node) -> Finding:
    """NVLinks there, active and at speed, as the class states."""
    return _judged(node, "links .*|NVLinks .*|speed of each link")


@check(
    "boot a kernel before 5.13 (EL 8, Ubuntu 20.04), which the NVLinks to the CPU need", applies=wired_to_cpu
)
def npu(node: Node) -> Finding:
    """A kernel that knows NVLink between GPU and CPU (POWER)."""
    there = re.search(r"\bpnv_pci_get_npu_dev\b", node.read("proc/kallsyms"))
    return verdict("pnv_pci_get_npu_dev in the kernel", "there" if there else "not there", good=bool(there))


@check(
    "reset the GPU (nvidia-smi -r) or reboot; if it comes again, replace it", applies=gpus_of, seconds=SECONDS
)
def ecc(node: Node) -> Finding:  # noqa: ARG001
    """ECC on where the GPU has it, no error that it could not correct, no page that waits to be retired."""
    fields = ("ecc.mode.current", "ecc.errors.uncorrected.volatile.total", "retired_pages.pending")
    rows = smi(*fields)
    expected = "Enabled or N/A, 0 uncorrected, none pending"
    mode, errors, pending = ([row[field].strip("[]") for row in rows] for field in fields)
    found = each(rows, *fields)
    absent = ("N/A", "Not Supported")
    if any(word != "Enabled" and word not in absent for word in mode) or any(
        word != "0" and word not in absent for word in errors
    ):
        return Finding(expected, found, FAILED)
    if any(word != "No" and word not in absent for word in pending):
        return Finding(expected, found, WARNING, "reboot when its jobs have ended: bad pages wait for that")
    return Finding(expected, found)


@check("see NVIDIA's Xid catalog; drain, reset or reboot, then `dmesg --clear`", applies=gpus_of)
def xid(node: Node) -> Finding:
    """No Xid error of the last 24 hours in the kernel's log but those that programs cause."""
    up = float((node.read("proc/uptime") or "0").split()[0])
    recent = [
        (int(number), bus)
        for stamp, bus, number in XID.findall(output("dmesg"))
        if not stamp or float(stamp) > up - 3600 * XID_HOURS
    ]
    bad = sorted({(number, bus) for number, bus in recent if number not in BY_PROGRAMS})
    found = ", ".join(f"Xid {number} of {bus}" for number, bus in bad)
    harmless = f"{len(recent)} by programs" if recent else "none"
    grave = any(number not in NOT_YET for number, _ in bad)
    return Finding("none", found or harmless, FAILED if grave else WARNING if bad else OK)


@check(
    "too hot: fans, dust, room; power brake: supplies; it passes with its cause",
    applies=gpus_of,
    seconds=SECONDS,
)
def throttling(node: Node) -> Finding:  # noqa: ARG001
    """No GPU slowed down by heat or want of power."""
    field = "clocks_throttle_reasons.active"
    try:
        rows = smi(field)
    except Failure as failure:
        if "not a valid field" not in failure.found:
            raise
        field = "clocks_event_reasons.active"  # its name since driver 535
        rows = smi(field)
    try:
        bits = {row["index"]: int(row[field], 16) for row in rows}
    except ValueError:
        raise Failure(f"nvidia-smi tells no reasons: {each(rows, field)}") from None
    slow = {gpu: [word for bit, word in SLOW.items() if have & bit] for gpu, have in bits.items()}
    capped = [gpu for gpu, have in bits.items() if have & POWER_CAP]
    if any(slow.values()):
        words = "; ".join(f"GPU {gpu}: {', '.join(why)}" for gpu, why in slow.items() if why)
        return Finding("not slowed", words, FAILED)
    if capped:
        found = f"GPU {', '.join(capped)}: at the power limit"
        return Finding(
            "not slowed", found, WARNING, "nothing, unless the limit is set low: nvidia-smi -q -d POWER"
        )
    return Finding("not slowed", "not slowed")


@check("nvidia-smi -ac MEMORY,GRAPHICS, at every boot", applies=clocked, seconds=SECONDS)
def clocks(node: Node) -> Finding:
    """Application clocks as the node file states."""
    fields = ("clocks.applications.memory", "clocks.applications.graphics")
    wanted = ", ".join(node.clocks.replace(",", " ").split())
    found = each(smi(*fields), *fields)
    return verdict(f"{wanted} MHz", f"{found} MHz", good=found == wanted)


@check("systemctl enable --now nvidia-persistenced (with --persistence-mode), or nvidia-smi -pm 1",
       applies=gpus_of, seconds=SECONDS)  # fmt: skip
def persistence(node: Node) -> Finding:  # noqa: ARG001
    """Persistence mode on, so that the driver stays loaded between jobs."""
    found = each(smi("persistence_mode"), "persistence_mode")
    return verdict("Enabled", found, good=found == "Enabled")


@check("reseat the GPU or its riser, then reboot", applies=gpus_of, seconds=SECONDS)
def pcie(node: Node) -> Finding:  # noqa: ARG001
    """PCIe links as wide as they can be."""
    rows = smi("pcie.link.width.current", "pcie.link.width.max")
    widths = [(row["pcie.link.width.current"], row["pcie.link.width.max"]) for row in rows]
    wide = all(now.isdecimal() and now == most for now, most in widths)
    found = each(rows, "pcie.link.width.current")
    return verdict(f"x {each(rows, 'pcie.link.width.max')}", f"x {found}", good=wide)


@check("find the process (fuser -v /dev/nvidia*) and end it; else reset the GPU (nvidia-smi -r)",
       applies=gpus_of, seconds=SECONDS)  # fmt: skip
def gpu_memory(node: Node) -> Finding:  # noqa: ARG001
    """No memory held on a GPU that no process uses."""
    used = output("nvidia-smi", "--query-compute-apps=gpu_uuid", "--format=csv,noheader")
    idle = [row for row in smi("uuid", "memory.used") if row["uuid"] not in used]
    held = [row for row in idle if not row["memory.used"].isdecimal() or int(row["memory.used"]) > LEFT_MIB]
    expected = f"{LEFT_MIB} MiB at most on an idle GPU"
    found = "; ".join(f"GPU {row['index']}: {row['memory.used']} MiB" for row in held)
    return verdict(expected, found or f"{len(idle)} idle, none holds more", good=not held)
