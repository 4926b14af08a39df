"""Maps, heat maps and curves: plotly figures as pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.measures.intervals import Interval
from nearfar.report.figure_style import colours, shown, styled
from nearfar.report.palette import SERIES, SYMBOLS, faded

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOVER_LETTERS = 160
SVG_ROWS = 5_000
"""Up to this many dots are drawn as SVG, which works everywhere; more need WebGL."""


def row_map(
    coordinates: ArrayLike, labels: Sequence[str] | None = None, texts: Sequence[str] | None = None
) -> go.Figure:
    """Rows in the plane, coloured by label; the text of a row shows under the pointer.

    Args:
        coordinates: [N, 2].
        labels: N names of classes (or modalities); a legend entry hides and shows each.
        texts: N texts, shown up to 160 letters.

    Raises:
        ArgumentError: lengths differ.
    """
    import plotly.graph_objects as go

    places = np.asarray(coordinates, dtype=np.float64)
    for name, given in (("labels", labels), ("texts", texts)):
        if given is not None and len(given) != len(places):
            raise ArgumentError(f"{name} has {len(given)} entries for {len(places)} rows on the map")
    names = np.asarray([""] * len(places) if labels is None else [str(label) for label in labels])
    hover = np.asarray([shown(text, HOVER_LETTERS) for text in texts or names], dtype=object)
    scatter = go.Scatter if len(places) <= SVG_ROWS else go.Scattergl
    figure = go.Figure()
    for order, name in enumerate(sorted(set(names))):
        own = names == name
        figure.add_trace(
            scatter(
                x=places[own, 0],
                y=places[own, 1],
                mode="markers",
                name=shown(name, 24),
                text=hover[own],
                marker={
                    "size": 6 if len(places) <= 1000 else 4,
                    "opacity": 0.8,
                    "color": SERIES[order % len(SERIES)],
                    "symbol": SYMBOLS[order // len(SERIES) % len(SYMBOLS)],
                },
                hovertemplate=("<b>%{fullData.name}</b><br>" if labels is not None else "")
                + "%{text}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="first principal component", zeroline=False)
    figure.update_yaxes(title_text="second principal component", zeroline=False, scaleanchor="x")
    styled(figure, height=560)
    # Classes can be many: below the map their names take the room that they need.
    figure.update_layout(
        showlegend=labels is not None, legend={"yref": "paper", "y": -0.14, "yanchor": "top"}, margin_t=32
    )
    return figure


def heat_map(values: ArrayLike, rows: Sequence[str], columns: Sequence[str], unit: str) -> go.Figure:
    """A matrix with names on both sides; small ones show their numbers.

    Args:
        values: [R, C].
        rows: R names, from top to bottom.
        columns: C names.
        unit: what the colour means.

    Raises:
        ArgumentError: the names do not fit the matrix.
    """
    import plotly.graph_objects as go

    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise ArgumentError(f"{len(rows)} x {len(columns)} names for a matrix of shape {matrix.shape}")
    figure = go.Figure(
        go.Heatmap(
            z=matrix,
            # Cells are placed by number, since equal names would fall into one.
            x=np.arange(len(columns)),
            y=np.arange(len(rows)),
            colorscale="Cividis",
            colorbar={"title": {"text": shown(unit), "font": {"size": 13}}, "thickness": 14},
            texttemplate="%{z:.2f}" if matrix.size <= 400 else None,
            hovertemplate="row %{y}, column %{x}: %{z:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=np.arange(len(columns)), ticktext=[shown(n, 24) for n in columns], showgrid=False
    )
    figure.update_yaxes(
        tickvals=np.arange(len(rows)),
        ticktext=[shown(n, 24) for n in rows],
        autorange="reversed",
        showgrid=False,
    )
    return styled(figure, height=max(260, 140 + 30 * len(rows)))


def curves(
    steps: ArrayLike, series: Mapping[str, Sequence[Interval]], x_title: str, y_title: str
) -> go.Figure:
    """Curves over steps, sizes or time, each in its band.

    Args:
        steps: [T].
        series: name -> T means with the bounds of their intervals (NaN bounds draw no band).
        x_title: what steps are.
        y_title: what is drawn.

    Raises:
        ArgumentError: a series is not as long as `steps`.
    """
    import plotly.graph_objects as go

    x = np.asarray(steps)
    figure = go.Figure()
    for (name, values), colour in zip(series.items(), colours(series), strict=True):
        if len(values) != len(x):
            raise ArgumentError(f"curve {name!r} has {len(values)} points for {len(x)} steps")
        mean, low, high = np.asarray(values, dtype=np.float64).reshape(-1, 3).T
        bounded = np.isfinite(low) & np.isfinite(high)
        if bounded.any():
            figure.add_scatter(
                x=np.concatenate([x[bounded], x[bounded][::-1]]),
                y=np.concatenate([high[bounded], low[bounded][::-1]]),
                fill="toself",
                fillcolor=faded(colour, 0.18),
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=name,
                showlegend=False,
            )
        figure.add_scatter(
            x=x,
            y=mean,
            name=shown(name),
            legendgroup=name,
            mode="lines+markers" if len(x) <= 30 else "lines",
            line={"color": colour, "width": 2.5},
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:.4f} (%{customdata[0]:.4f} to %{customdata[1]:.4f})",
        )
    figure.update_xaxes(title_text=shown(x_title))
    figure.update_yaxes(title_text=shown(y_title))
    figure.update_layout(hovermode="x unified")
    return styled(figure)
