"""The picture of the contrast benchmark: time and memory against N, for us, the textbook and other libraries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearfar.report.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION

KINDS = {"symmetric": "InfoNCE, both directions", "NT-Xent": "NT-Xent, 2N views"}
LINES = {
    "nearfar": ("nearfar", BLUE),
    "textbook": ("textbook", GREY),
    "open_clip ClipLoss": ("open_clip", GREEN),
    "sentence-transformers symmetric ranking loss": ("sentence-tr.", ORANGE),
    "sentence-transformers cached symmetric ranking loss": ("s.-tr. cached", PURPLE),
    "lightly NTXentLoss": ("lightly", GREEN),
    "pytorch-metric-learning NTXentLoss": ("p.-metric-l.", VERMILION),
}
"""What a measurement is beside, without its version -> label and colour."""
LEAST_GAP = 0.085
"""Between two labels, as a share of the height of a panel."""

Series = dict[str, dict[int, float]]


def draw(cells: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw what there is, in the rows of `KINDS`.

    Args:
        cells: measurements of the parts "textbook" and "peers", as `contrast.Measurement` names their fields.
        file: .svg or .png.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(2, 2, figsize=(6.6, 5.6))
        for (kind, title), row in zip(KINDS.items(), axes, strict=True):
            for axis, start, unit, scale in zip(
                row, ("time", "additional memory"), ("ms", "MB"), (1e3, 1e-6), strict=True
            ):
                _panel(axis, series(cells, kind, start, scale))
                axis.set_title(f"{title}\n{start}, {unit}", fontsize=9, loc="left")
        for axis in axes[1]:
            axis.set_xlabel("N")
        figure.tight_layout()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(figure)


def series(cells: Sequence[Mapping[str, Any]], kind: str, start: str, scale: float) -> Series:
    """Line -> N -> median, of the measurements of one loss whose description begins with `start`."""
    found: Series = {}
    for cell in cells:
        if not cell["what"].startswith(f"{start}, {kind},") or "theirs" not in cell["details"]:
            continue
        peer = cell["beside"].split(" (")[0]
        if peer not in LINES:
            continue
        for name, values in ((peer, cell["details"]["theirs"]), ("nearfar", cell["details"]["ours"])):
            middle = statistics.median(values) if isinstance(values, list) else values
            # Where nearfar was timed beside several peers, the first is as good as the others.
            found.setdefault(name, {}).setdefault(cell["n"], middle * scale)
    return found


def _panel(axis: Any, lines: Series) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    if not lines:
        return
    for name, points in sorted(lines.items(), key=lambda line: line[0] == "nearfar"):
        sizes = sorted(points)
        wide = 2.4 if name == "nearfar" else 1.2
        heights = [points[n] for n in sizes]
        axis.plot(sizes, heights, color=LINES[name][1], linewidth=wide, marker="o", markersize=2.5)
    sizes = sorted({n for points in lines.values() for n in points})
    axis.set_xlim(sizes[0] / 1.3, sizes[-1] * max(4, sizes[-1] / sizes[0]) ** 0.75)
    ticks = [n for n in sizes if n.bit_length() % 2 == 1]
    axis.set_xticks(ticks, [_short(n) for n in ticks])
    axis.xaxis.set_minor_locator(_no_ticks())
    ends = {name: (max(points), points[max(points)]) for name, points in lines.items()}
    # A leader from an end far from the labels would look like a line of its own.
    for name in [name for name, (n, _) in ends.items() if n < sizes[-1] / 4]:
        label, colour = LINES[name]
        end = ends.pop(name)
        axis.annotate(label, end, (5, 0), textcoords="offset points", color=colour, fontsize=8, va="center")
    for name, height in _apart({name: end[1] for name, end in ends.items()}, axis.get_ylim()).items():
        label, colour = LINES[name]
        axis.annotate(
            label,
            ends[name],
            xytext=(sizes[-1] * 1.6, height),
            color=colour,
            fontsize=8,
            va="center",
            weight="bold" if name == "nearfar" else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2},
        )


def _apart(heights: Mapping[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """The same heights, moved as little as is needed for labels not to overlap on a logarithmic axis."""
    least, most = (math.log(limit) for limit in limits)
    gap = LEAST_GAP * (most - least)
    names = sorted(heights, key=lambda name: heights[name])
    placed: list[float] = []
    for name in names:
        placed.append(max([math.log(heights[name])] + [below + gap for below in placed[-1:]]))
    ceiling = most
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return {name: math.exp(height) for name, height in zip(names, placed, strict=True)}


def _short(n: int) -> str:
    return f"{n // 1024}k" if n >= 1024 else str(n)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
