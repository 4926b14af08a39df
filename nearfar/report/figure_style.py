"""How all plotly figures look. Colours of text and grid are left to the page, which follows the reader's
light or dark setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from nearfar.report.palette import AFTER, BEFORE, SERIES

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAME_LETTERS = 40


def shown(text: object, letters: int = NAME_LETTERS) -> str:
    """A text as a figure may show it: on one line, cut with an ellipsis, and without live markup."""
    line = " ".join(str(text).split())
    return escape(line if len(line) <= letters else line[: letters - 1].rstrip() + "…")


def colours(names: Iterable[str]) -> list[str]:
    """Before and after look the same in every figure; other series take the palette in order."""
    fixed = {"before": BEFORE, "after": AFTER}
    given = list(names)
    if set(given) <= set(fixed):
        return [fixed[name] for name in given]
    return [SERIES[i % len(SERIES)] for i in range(len(given))]


def logarithmic(figure: go.Figure, values: Sequence[np.ndarray], tick_format: str) -> None:
    """Give the y axis a logarithmic scale whose labels neither crowd nor run out.

    Args:
        figure: changed in place.
        values: all that is drawn; NaN are not.
        tick_format: of the labels, as d3 writes it.
    """
    drawn = np.concatenate(values)
    decades = np.log10(np.nanmax(drawn) / np.nanmin(drawn))
    # "D2" labels 1, 2 and 5 of each decade.
    figure.update_yaxes(
        type="log", dtick="D2" if decades < 2 else int(np.ceil(decades / 8)), tickformat=tick_format
    )


def styled(figure: go.Figure, height: int = 360) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 64, "r": 24, "t": 56, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={
            "orientation": "h",
            "yanchor": "bottom",
            "yref": "container",
            "y": 0.9,
            "xanchor": "left",
            "x": 0,
        },
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True, ticks="outside", ticklen=4, title_font_size=13)
    figure.update_yaxes(automargin=True, ticks="", title_font_size=13)
    return figure
