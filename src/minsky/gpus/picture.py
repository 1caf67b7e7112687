"""A topology as a picture: sockets above their GPUs, NVLinks as arcs below, with count and GB/s."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from minsky.errors import MinskyError
from minsky.gpus.model import GPU, Topology, format_list

KINDS = (".png", ".svg")
INK, PALE, SOCKET, PCIE = "#1f2933", "#eef2f6", "#cfd9e4", "#9aa5b1"
BY_COUNT = ("#7fb3d5", "#2471a3", "#c0651f", "#6c3483")  # of links, fewest first
WIDE, HIGH, GAP, APART = 1.7, 0.72, 0.45, 0.9  # a GPU's box; between GPUs; between sockets
SOCKET_AT, GPU_AT, FABRIC_AT = 2.1, 0.0, -1.25  # lower edges
FEW = 6  # arcs that can each be labelled


@dataclass
class Group:
    """GPUs near the same CPUs, and where they stand."""

    label: str
    gpus: list[GPU]
    left: float = 0
    adapters: list[str] = field(default_factory=list)

    @property
    def width(self) -> float:
        """Width of the GPUs side by side."""
        return len(self.gpus) * (WIDE + GAP) - GAP


def draw(topology: Topology, file: Path, title: str) -> None:
    """Write a picture of *topology* to *file*, whose name ends in .png or .svg.

    Raises:
        MinskyError: another ending, no GPUs to draw, or a place that cannot be written to.
    """
    if file.suffix not in KINDS:
        raise MinskyError(f"--picture {file}: pictures are PNG or SVG; end the name in {' or '.join(KINDS)}")
    if not topology.gpus:
        raise MinskyError(f"{topology.source} tells of no GPUs, so there is nothing to draw")
    groups = _groups(topology)
    centre = {gpu.index: group.left + place * (WIDE + GAP) + WIDE / 2
              for group in groups for place, gpu in enumerate(group.gpus)}  # fmt: skip
    mesh = _is_mesh(topology)
    depth = 1.7 if mesh else 0.9 + (0 if not topology.links else _drop(max(_span(topology, centre))))
    width = groups[-1].left + groups[-1].width
    figure = Figure(figsize=((width + 1.2) * 0.72, (SOCKET_AT + 1.75 + depth) * 0.72))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.6, width + 0.6)
    axes.set_ylim(-depth, SOCKET_AT + 1.75)
    axes.axis("off")
    _words(axes, width / 2, SOCKET_AT + 1.42, title, size=12, weight="bold")
    _draw_sockets(axes, topology, groups, centre)
    if mesh:
        _draw_fabric(axes, topology, centre)
    else:
        _draw_arcs(axes, topology, centre, width / 2, -depth + 0.3)
    for group in groups:
        for gpu in group.gpus:
            _draw_gpu(axes, gpu, centre[gpu.index])
    try:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    except OSError as error:
        raise MinskyError(
            f"--picture {file} cannot be written ({error.strerror}): name another place"
        ) from error


def _groups(topology: Topology) -> list[Group]:
    """Return the GPUs by socket, or where that is not told by the CPUs or NUMA nodes near them."""
    groups: dict[object, Group] = {}
    for gpu in topology.gpus:
        near = f"CPUs {format_list(gpu.cpu_affinity)}" if gpu.cpu_affinity else ""
        if gpu.numa:
            near = f"{near}\nNUMA {format_list(gpu.numa)}" if near else f"NUMA {format_list(gpu.numa)}"
        key = (gpu.socket,) if gpu.socket is not None else (tuple(gpu.cpu_affinity), tuple(gpu.numa))
        if gpu.socket is not None:
            cores = topology.cpus.cores if topology.cpus else None
            near = f"socket {gpu.socket}{f', {cores} cores' if cores else ''}"
        groups.setdefault(key, Group(near or "host", [])).gpus.append(gpu)
    left = 0.0
    for group in groups.values():
        group.left = left
        left += group.width + APART
        if len(group.label) > 22 * len(group.gpus):  # Minsky's lists with SMT off
            group.label = f"{len(group.gpus[0].cpu_affinity)} CPUs from {group.gpus[0].cpu_affinity[0]}"
        group.adapters = [
            nic.name for nic in topology.nics if _nearest(topology, nic.name, group, list(groups.values()))
        ]
    return list(groups.values())


def _nearest(topology: Topology, nic: str, group: Group, groups: list[Group]) -> bool:
    """Whether an adapter is nearer to *group* than across sockets, and to it alone."""
    near = [
        each
        for each in groups
        if any(topology.paths.get(f"GPU{gpu.index}", {}).get(nic, "SYS") != "SYS" for gpu in each.gpus)
    ]
    return near == [group]


def _is_mesh(topology: Topology) -> bool:
    """Whether every pair is linked alike, as through NVSwitches: a bar says that better than 28 arcs."""
    size = len(topology.gpus)
    return size > FEW and len(topology.links) == size * (size - 1) // 2 and len(_counts(topology)) == 1


def _counts(topology: Topology) -> list[int]:
    return sorted({link.count for link in topology.links})


def _gb_s(topology: Topology) -> float | None:
    """Return what a link carries in one direction, GB/s; None where the recordings do not tell."""
    speeds = [link.gb_s for gpu in topology.gpus for link in gpu.nvlinks or [] if link.gb_s]
    return min(speeds) if speeds else None


def _carries(count: int, gb_s: float | None) -> str:
    if gb_s is None:
        return f"{count} NVLink{'s' if count > 1 else ''}"
    return f"{count} x {gb_s:g} = {count * gb_s:g} GB/s" if count > 1 else f"1 x {gb_s:g} GB/s"


def _box(axes: Axes, corner: tuple[float, float], wide: float, high: float, colour: str) -> None:
    style = "round,pad=0.02,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, wide, high, style, fc=colour, ec=INK, lw=1.1, zorder=3))


def _draw_gpu(axes: Axes, gpu: GPU, centre: float) -> None:
    _box(axes, (centre - WIDE / 2, GPU_AT), WIDE, HIGH, PALE)
    model = (gpu.model or "").removeprefix("NVIDIA ").removeprefix("Tesla ").replace(" 80GB HBM3", "")
    _words(axes, centre, GPU_AT + HIGH * (0.66 if model else 0.5), f"GPU {gpu.index}", size=10, weight="bold")
    _words(axes, centre, GPU_AT + HIGH * 0.28, model, size=6.6)


def _draw_sockets(axes: Axes, topology: Topology, groups: list[Group], centre: dict[int, float]) -> None:
    """Draw sockets, what joins them, and each GPU's way to its own."""
    middle = SOCKET_AT + HIGH / 2
    for left, right in zip(groups, groups[1:]):
        axes.plot([left.left + left.width, right.left], [middle, middle], color=PCIE, lw=5, zorder=1)
        _words(axes, (left.left + left.width + right.left) / 2, middle + 0.22, "SMP", size=7)
    for group in groups:
        _box(axes, (group.left, SOCKET_AT), group.width, HIGH, SOCKET)
        label = group.label if not group.adapters else f"{group.label}  ·  {' '.join(group.adapters)}"
        size = 9 if len(label) < 20 * len(group.gpus) else 7
        _words(axes, group.left + group.width / 2, middle, label.replace("\n", ", "), size=size)
        for gpu in group.gpus:
            to_cpu = [link for link in gpu.nvlinks or [] if link.remote == "cpu"]
            x = centre[gpu.index]
            colour = _colour(topology, len(to_cpu)) if to_cpu else PCIE
            axes.plot([x, x], [GPU_AT + HIGH, SOCKET_AT], color=colour, lw=1.6 + 1.6 * len(to_cpu), zorder=1)
            if to_cpu:
                _label(axes, x, (GPU_AT + HIGH + SOCKET_AT) / 2, _carries(len(to_cpu), to_cpu[0].gb_s))
            elif gpu.nvlinks is not None and all(
                link.remote for link in gpu.nvlinks
            ):  # else it may be NVLink
                _label(axes, x, (GPU_AT + HIGH + SOCKET_AT) / 2, "PCIe")
    loose = [nic.name for nic in topology.nics if not any(nic.name in group.adapters for group in groups)]
    if loose:
        shown = loose if len(loose) < FEW else [f"{len(loose)} network adapters"]
        _words(
            axes, (groups[-1].left + groups[-1].width) / 2, SOCKET_AT + HIGH + 0.28, ", ".join(shown), size=8
        )


def _words(axes: Axes, x: float, y: float, words: str, **look: Any) -> None:
    axes.text(x, y, words, **{"ha": "center", "va": "center", "color": INK, "zorder": 5, **look})


def _label(axes: Axes, x: float, y: float, words: str) -> None:
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
    _words(axes, x, y, words, size=7.5, bbox=box)


def _colour(topology: Topology, count: int) -> str:
    counts = _counts(topology)
    return BY_COUNT[
        min(counts.index(count) if count in counts else 0, len(BY_COUNT) - 1) + (len(counts) == 1)
    ]


def _span(topology: Topology, centre: dict[int, float]) -> list[float]:
    return [abs(centre[link.b] - centre[link.a]) for link in topology.links]


def _drop(span: float) -> float:
    """Return how deep an arc of a width hangs."""
    return 0.45 + 0.24 * span


def _draw_arcs(axes: Axes, topology: Topology, centre: dict[int, float], middle: float, low: float) -> None:
    gb_s, counts = _gb_s(topology), _counts(topology)
    places = _ends(topology, centre)
    for link in topology.links:
        start, end = places[link.a, link.b], places[link.b, link.a]
        drop = _drop(abs(centre[link.b] - centre[link.a]))
        curve = Curve(
            [(start, GPU_AT), (start, GPU_AT - drop * 4 / 3), (end, GPU_AT - drop * 4 / 3), (end, GPU_AT)],
            [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
        )
        style = "--" if link.active is not None and link.active < link.count else "-"
        axes.add_patch(
            PathPatch(
                curve,
                fc="none",
                ec=_colour(topology, link.count),
                ls=style,
                lw=1.6 + 1.6 * min(link.count, 4),
            )
        )
        if len(topology.links) <= FEW:
            words, narrow = _carries(link.count, gb_s), abs(end - start) < WIDE + 2 * GAP
            words, up = (words.replace("= ", "=\n"), drop / 2) if narrow else (words, 0.2)
            _words(axes, (start + end) / 2, GPU_AT - drop + up, words, size=7.5)
    if not topology.links:
        _words(axes, middle, GPU_AT - 0.5, "no NVLinks between GPUs", size=8)
    elif len(topology.links) > FEW:
        handles = [
            Line2D(
                [],
                [],
                color=_colour(topology, count),
                lw=1.6 + 1.6 * min(count, 4),
                label=_carries(count, gb_s),
            )
            for count in counts
        ]
        axes.legend(
            handles=handles,
            loc="lower center",
            ncol=len(counts),
            frameon=False,
            fontsize=8,
            title="NVLink, each direction",
            title_fontsize=8,
        )
    elif gb_s:
        _words(axes, middle, low, "NVLink, GB/s in each direction", size=7.5)


def _ends(topology: Topology, centre: dict[int, float]) -> dict[tuple[int, int], float]:
    """Return where on a GPU's lower edge each of its arcs begins, so that none cross there."""
    ends = {}
    for gpu in topology.gpus:
        others = [link.a + link.b - gpu.index for link in topology.links if gpu.index in (link.a, link.b)]
        # Left neighbours first, the far ones innermost to the box's middle.
        left = sorted(
            (other for other in others if centre[other] < centre[gpu.index]), key=lambda o: -centre[o]
        )
        right = sorted(
            (other for other in others if centre[other] > centre[gpu.index]), key=lambda o: -centre[o]
        )
        order: list[int] = [*left, *right]
        for place, other in enumerate(order):
            ends[gpu.index, other] = centre[gpu.index] + WIDE * 0.8 * ((place + 0.5) / len(order) - 0.5)
    return ends


def _draw_fabric(axes: Axes, topology: Topology, centre: dict[int, float]) -> None:
    count, gb_s = _counts(topology)[0], _gb_s(topology)
    first, last = min(centre.values()) - WIDE / 2, max(centre.values()) + WIDE / 2
    colour = BY_COUNT[1]
    for x in centre.values():
        axes.plot([x, x], [FABRIC_AT + HIGH * 0.7, GPU_AT], color=colour, lw=6, zorder=1)
    _box(axes, (first, FABRIC_AT), last - first, HIGH * 0.7, colour)
    switched = any(link.remote == "switch" for gpu in topology.gpus for link in gpu.nvlinks or [])
    words = f"{'NVSwitch' if switched else 'NVLink'}: every pair of GPUs, {_carries(count, gb_s)}"
    words += " in each direction" if gb_s else ""
    _words(axes, (first + last) / 2, FABRIC_AT + HIGH * 0.35, words, size=9.5, color="white", weight="bold")
