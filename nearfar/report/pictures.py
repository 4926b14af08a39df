"""Pictures for documents: PNG or SVG files that matplotlib draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.files import atomic_file
from nearfar.measures.intervals import Interval, mean_interval, paired_interval
from nearfar.report.palette import BEFORE, BLUE, GREY, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEXT, _SOFT, _LINE = "#1b1f24", "#5b6470", "#dfe3e8"
_FORMATS = (".png", ".svg")
NAMED_TASKS = 14
"""Lines beyond this many are drawn without names; their legend would be higher than the picture."""


def comparison_picture(
    values: Mapping[str, Sequence[float]], measure: str, path: Path | str, *, baseline: str
) -> None:
    """Methods side by side: each seed, mean with its 95% interval, and the paired differences to a baseline.

    Args:
        values: method -> one figure for each seed, seeds in one order everywhere.
        measure: what the figures are.
        path: PNG or SVG file, by its suffix.
        baseline: the method that the others are compared with, seed by seed.

    Raises:
        ArgumentError: the baseline is not among the methods, numbers of seeds differ, a figure is not
            finite, or the suffix is neither.
    """
    if baseline not in values:
        raise ArgumentError(f"baseline {baseline!r} is not among {', '.join(values)}")
    figure = _figure(9.0, 1.35 + 0.5 * len(values))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    heights = np.arange(len(values))[::-1]
    for y, (name, seeds) in zip(heights, values.items(), strict=True):
        colour = {baseline: GREY, "before": BEFORE}.get(name, BLUE)
        left.scatter(seeds, np.full(len(seeds), y - 0.22), s=14, color=colour, alpha=0.6, linewidths=0)
        _interval(left, mean_interval(seeds), y, colour)
        if name != baseline:
            gap = paired_interval(seeds, values[baseline])
            _interval(right, gap, y, colour)
            right.annotate(
                f"{gap.mean:+.3f}".replace("-", "−"),
                (gap.mean, y),
                (0, 7),
                textcoords="offset points",
                ha="center",
                color=_TEXT,
            )
    right.axvline(0, color=_SOFT, linewidth=1)
    left.set_yticks(heights, list(values))
    left.set_ylim(-0.6, len(values) - 0.4)
    left.set_title(f"{measure}: mean, 95% interval, seeds", loc="left", fontsize=10, color=_TEXT)
    right.set_title(f"difference from {baseline}, paired by seed", loc="left", fontsize=10, color=_TEXT)
    for axes in (left, right):
        _plain(axes, "x")
        axes.margins(x=0.12)
    _write(figure, path)


def curve_picture(
    steps: ArrayLike,
    series: Mapping[str, Sequence[Interval]],
    path: Path | str,
    *,
    x_title: str,
    y_title: str,
) -> None:
    """Losses or measures over steps, each in its band.

    Args:
        steps: [T].
        series: name -> T means with the bounds of their intervals (NaN bounds draw no band).
        path: PNG or SVG file, by its suffix.
        x_title: what steps are.
        y_title: what is drawn.

    Raises:
        ArgumentError: a series is not as long as `steps`, or the suffix is neither.
    """
    x = np.asarray(steps)
    figure = _figure(7.0, 3.6)
    axes = figure.subplots()
    for order, (name, points) in enumerate(series.items()):
        if len(points) != len(x):
            raise ArgumentError(f"curve {name!r} has {len(points)} points for {len(x)} steps")
        mean, low, high = np.asarray(points, dtype=np.float64).reshape(-1, 3).T
        colour = SERIES[order % len(SERIES)]
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, mean, color=colour, linewidth=2, label=name)
    axes.set_xlabel(x_title, color=_SOFT)
    axes.set_ylabel(y_title, color=_SOFT)
    if len(series) > 1:
        axes.legend(frameon=False)
    _plain(axes, "y")
    _write(figure, path)


def forgetting_picture(
    tasks: Sequence[str], figures: Mapping[str, Sequence[Sequence[float]]], path: Path | str
) -> None:
    """What became of each task: one panel a figure, one line a task from when it was learned, and their mean.

    Args:
        tasks: names, in the order of learning.
        figures: name -> after each task, the figure of every task so far.
        path: PNG or SVG file, by its suffix.

    Raises:
        ArgumentError: a figure is not told after each task, or the suffix is neither.
    """
    from matplotlib.ticker import MaxNLocator

    after = np.arange(1, len(tasks) + 1)
    picture = _figure(1.2 + 3.4 * len(figures), 3.8)
    panels = picture.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, figures.items(), strict=True):
        if [len(row) for row in rows] != after.tolist():
            raise ArgumentError(
                f"{name} must have one value after the first of {len(tasks)} tasks, two after ..."
            )
        for number, task in enumerate(tasks):
            line = [row[number] for row in rows[number:]]
            colour = SERIES[number % len(SERIES)]
            name_of = task.replace("$", r"\$")  # two of them would be read as a formula
            axes.plot(
                after[number:], line, color=colour, linewidth=1.5, marker="o", markersize=4, label=name_of
            )
        axes.plot(after, [np.mean(row) for row in rows], color=_TEXT, linewidth=2.5, label="mean")
        axes.set_title(name.replace("_", " "), loc="left", fontsize=10, color=_TEXT)
        axes.set_xlabel("tasks learned", color=_SOFT)
        _plain(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    handles, labels = panels[-1].get_legend_handles_labels()
    kept = slice(None) if len(tasks) <= NAMED_TASKS else slice(-1, None)
    panels[-1].legend(
        handles[kept], labels[kept], frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    _write(picture, path)


def plane_picture(
    points: Mapping[str, tuple[float, float, float]], titles: tuple[str, str, str], path: Path | str
) -> None:
    """Methods as dots in the plane of two figures, a third as colour.

    Args:
        points: method -> horizontal figure, vertical figure, colour.
        titles: what the three are.
        path: PNG or SVG file, by its suffix.

    Raises:
        ArgumentError: there are no points, or the suffix is neither.
    """
    if not points:
        raise ArgumentError("a plane without methods cannot be drawn")
    figure = _figure(8.2, 5.2)
    axes = figure.subplots()
    x, y, colour = np.asarray(list(points.values()), dtype=np.float64).T
    dots = axes.scatter(x, y, c=colour, s=70, cmap="viridis", edgecolors="white", linewidths=0.8, zorder=3)
    axes.set_xlabel(titles[0], color=_SOFT)
    axes.set_ylabel(titles[1], color=_SOFT)
    axes.margins(x=0.15, y=0.1)
    bar = figure.colorbar(dots, ax=axes)
    bar.set_label(titles[2], color=_SOFT)
    bar.outline.set_visible(False)
    _plain(axes, "y")
    axes.grid(True, axis="x", color=_LINE, linewidth=0.8)
    _label(figure, axes, {name: (across, up) for name, (across, up, _) in points.items()})
    _write(figure, path)


def _label(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside dots, each at the first place around its dot where it covers no other name or dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # only then is it known where things are
    dots = axes.transData.transform(list(points.values()))
    taken: list[Any] = []
    for name, point in points.items():
        boxes = {}
        for across, up, side in _PLACES:
            text = axes.annotate(
                name,
                point,
                (across, up),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                color=_TEXT,
                zorder=4,
            )
            box = text.get_window_extent(canvas.get_renderer())
            covered = box.count_overlaps(taken) + int(box.count_contains(dots))
            boxes[text] = (covered, box)
            if not covered:
                break
        best = min(boxes, key=lambda text: boxes[text][0])
        for text in boxes.keys() - {best}:
            text.remove()
        taken.append(boxes[best][1])


_PLACES = tuple(
    (across, up + shift, side)
    for shift in (0, 10, -10)
    for across, up, side in ((6, 4, "left"), (-6, 4, "right"), (6, -10, "left"), (-6, -10, "right"))
)
"""Where a name may stand, in points from its dot, and which of its ends is there."""


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _interval(axes: Axes, interval: Interval, y: float, colour: str) -> None:
    if np.isfinite(interval.low):
        axes.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.plot([interval.mean], [y], "o", color=colour, markersize=8)


def _plain(axes: Axes, grid: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(True, axis="x" if grid == "x" else "y", color=_LINE, linewidth=0.8)
    axes.locator_params(axis="x", nbins=6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=_TEXT)


def _write(figure: Figure, path: Path | str) -> None:
    import matplotlib

    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ArgumentError(f"pictures are written as {' or '.join(_FORMATS)}, not as {suffix!r} ({path})")
    # Salt and no date: the same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "nearfar"}), atomic_file(path) as temporary:
        metadata = {"Date": None} if suffix == ".svg" else None
        figure.savefig(temporary, format=suffix[1:], dpi=160, metadata=metadata)
