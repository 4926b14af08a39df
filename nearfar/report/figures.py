"""Figures of what measures look at: plotly figures as pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.report.figure_style import colours, logarithmic, shown, styled
from nearfar.report.palette import AFTER, BEFORE, FAR, GREY, NEAR, SYMBOLS, faded

if TYPE_CHECKING:
    import plotly.graph_objects as go


def before_after_bars(
    before: Mapping[str, float], after: Mapping[str, float], range_x: tuple[float, float] | None = None
) -> go.Figure:
    """Bars of each measure, before above after.

    Args:
        before: measure -> value; may be empty.
        after: measure -> value; its order is kept, from top to bottom.
        range_x: fixed ends of the axis.
    """
    import plotly.graph_objects as go

    names = list(after)[::-1]
    figure = go.Figure()
    for label, values, colour in (("after", after, AFTER), ("before", before, BEFORE)):
        present = [name for name in names if name in values]
        if not present:
            continue
        figure.add_bar(
            x=[values[name] for name in present],
            y=[shown(name) for name in present],
            orientation="h",
            name=label,
            marker_color=colour,
            texttemplate="%{x:.3f}",
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.4f}",
        )
    figure.update_xaxes(range=None if range_x is None else list(range_x))
    figure.update_yaxes(showgrid=False)
    figure.update_layout(barmode="group", bargap=0.3, legend_traceorder="reversed")
    return styled(figure, height=110 + 52 * len(names))


def cosine_histogram(panels: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """How alike partners are, against how alike rows are that have nothing to do with each other.

    Args:
        panels: "before", "after" ... -> (cosines of positives, cosines of random pairs), one panel each on
            common axes.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=[shown(name) for name in panels]
    )
    values = {name: (np.asarray(near), np.asarray(far)) for name, (near, far) in panels.items()}
    lowest = min(float(cosines.min()) for pair in values.values() for cosines in pair)
    edges = np.linspace(min(0.0, np.floor(lowest * 10) / 10), 1.0, 51)
    for column, pair in enumerate(values.values(), start=1):
        for cosines, name, colour in zip(pair, ("positives", "random pairs"), (NEAR, FAR), strict=True):
            # Rounding can put the cosine of equal rows a little above 1.
            shares = np.histogram(np.clip(cosines, edges[0], 1.0), edges)[0] / len(cosines)
            figure.add_bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=shares,
                width=edges[1] - edges[0],
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"color": faded(colour, 0.75), "line": {"color": colour, "width": 0.5}},
                hovertemplate="cosine %{x:.2f}: %{y:.1%}",
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="cosine", range=[edges[0], 1.02])
    figure.update_yaxes(tickformat=".0%", title_text="share of pairs", col=1)
    figure.update_layout(barmode="overlay", bargap=0)
    styled(figure, height=400)
    figure.update_layout(margin_t=80)
    return figure


def singular_spectrum(spectra: Mapping[str, ArrayLike]) -> go.Figure:
    """Singular values, each divided by the largest, on a logarithmic axis.

    Args:
        spectra: "before", "after" or any names -> singular values, largest first.

    Raises:
        ArgumentError: a spectrum is empty or all zeros.
    """
    import plotly.graph_objects as go

    figure, drawn = go.Figure(), []
    for (name, values), colour in zip(spectra.items(), colours(spectra), strict=True):
        singular = np.asarray(values, dtype=np.float64)
        if not len(singular) or singular[0] <= 0:
            raise ArgumentError(f"the spectrum of {name!r} is empty or all zeros: there is nothing to draw")
        # A logarithm has no place for zeros; the line ends where they begin.
        relative = np.where(singular > 0, singular / singular[0], np.nan)
        drawn.append(relative)
        figure.add_scatter(
            x=np.arange(1, len(relative) + 1),
            y=relative,
            mode="lines+markers" if len(relative) <= 40 else "lines",
            name=shown(name),
            line={"color": colour, "width": 2.5},
            hovertemplate="direction %{x}: %{y:.2e} of the largest",
        )
    figure.update_xaxes(title_text="direction, from the largest", zeroline=False)
    figure.update_yaxes(title_text="singular value / largest")
    logarithmic(figure, drawn, "~g")
    return styled(figure)


def alignment_uniformity_plane(runs: Mapping[str, ArrayLike]) -> go.Figure:
    """Runs in the plane of uniformity and alignment (Wang, Isola. ICML 2020): lower left is better.

    Args:
        runs: run or method -> (alignment, uniformity), or a path [T, 2] of such from first to last step.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for (name, values), colour in zip(runs.items(), colours(runs), strict=True):
        path = np.atleast_2d(np.asarray(values, dtype=np.float64))
        figure.add_scatter(
            x=path[:, 1],
            y=path[:, 0],
            mode="lines+markers+text",
            name=shown(name),
            text=[""] * (len(path) - 1) + [shown(name)],
            textposition="top center",
            cliponaxis=False,
            line={"color": colour, "width": 1.5},
            marker={"color": colour, "size": [6] * (len(path) - 1) + [13], "opacity": 1},
            hovertemplate="uniformity %{x:.3f}<br>alignment %{y:.3f}",
        )
    figure.add_annotation(
        text="↙ better", x=0.01, y=0.02, xref="paper", yref="paper", showarrow=False, opacity=0.7
    )
    figure.update_xaxes(title_text="uniformity (lower: more evenly spread)", zeroline=False)
    figure.update_yaxes(title_text="alignment (lower: partners closer)", rangemode="tozero")
    figure.update_layout(showlegend=False)
    return styled(figure, height=400)


def occurrence_histogram(counts: Mapping[str, ArrayLike], k: int) -> go.Figure:
    """How many keys are among the k nearest of how many rows.

    Args:
        counts: "before", "after" ... -> N_k of each key, [M].
        k: neighbours taken for each row.
    """
    import plotly.graph_objects as go

    figure, drawn = go.Figure(), []
    for (name, values), colour, symbol in zip(counts.items(), colours(counts), SYMBOLS, strict=False):
        occurrences = np.asarray(values, dtype=np.int64)
        times, keys = np.unique(occurrences, return_counts=True)
        drawn.append(keys / len(occurrences))
        figure.add_scatter(
            x=times,
            y=drawn[-1],
            mode="markers",
            name=shown(name),
            marker={"color": colour, "size": 7, "opacity": 0.8, "symbol": symbol},
            hovertemplate=f"%{{y:.2%}} of keys are a neighbour (of {k}) %{{x}} times",
        )
    mean = float(np.asarray(next(iter(counts.values()))).mean())
    figure.add_vline(x=mean, line={"color": GREY, "dash": "dot"}, annotation_text=f"mean {mean:.3g}")
    figure.update_xaxes(title_text=f"times among the {k} nearest", zeroline=False)
    figure.update_yaxes(title_text="share of keys")
    logarithmic(figure, drawn, "~%")
    return styled(figure)
