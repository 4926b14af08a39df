"""Pictures of the clusters of a space: rows that are in each, and what its generator draws of it."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.heads.decoders.layered import LayeredGenerator
from nearfar.report.figure_style import styled
from nearfar.report.page import Captioned, Section

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL.Image import Image
    from torch import nn

MOST = 24
"""Clusters that are shown: those with most rows."""
EACH = 8
"""Pictures of a cluster."""
GAP = 2
"""Pixels between two pictures."""
PAPER = 255


def cluster_sections(
    clusters: Sequence[int] | None, cells: Sequence[Any] | None, generator: nn.Module | None
) -> list[Section]:
    """A section of a page for the clusters of a space; none where it has no clusters, or no pictures.

    Args:
        clusters: of each of N rows.
        cells: the rows, if they are PIL pictures.
        generator: what draws a cluster.
    """
    if clusters is None or cells is None:
        return []
    held = Counter(clusters).most_common(MOST)
    draws = generator if isinstance(generator, LayeredGenerator) else None
    size = 32 if draws is None else draws.size
    walls = [_captioned("Rows in each cluster", _rows(held, clusters, cells, size), held)]
    if draws is not None:
        drawn = draws.generate([cluster for cluster, _ in held for _ in range(EACH)])
        tiles = (drawn.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        walls.append(
            _captioned("Drawn for each cluster", tiles.reshape(len(held), EACH, size, size, 3), held)
        )
    shown = f"The {MOST} largest of {len(set(clusters))} clusters." if len(set(clusters)) > MOST else ""
    return [Section("Clusters", shown, walls)]


def _rows(
    held: Sequence[tuple[int, int]], clusters: Sequence[int], cells: Sequence[Image], size: int
) -> np.ndarray:
    tiles = np.full((len(held), EACH, size, size, 3), PAPER, dtype=np.uint8)
    for line, (cluster, _) in enumerate(held):
        own = [row for row, other in enumerate(clusters) if other == cluster][:EACH]
        for place, row in enumerate(own):
            tiles[line, place] = np.asarray(cells[row].convert("RGB").resize((size, size)))
    return tiles


def _captioned(title: str, tiles: np.ndarray, held: Sequence[tuple[int, int]]) -> Captioned:
    names = [f"{cluster} ({rows:,})" for cluster, rows in held]
    caption = f"{EACH} of each cluster at most; beside them its number and how many rows it holds."
    return Captioned(wall(tiles, names), title, caption)


def wall(tiles: np.ndarray, names: Sequence[str]) -> go.Figure:
    """Pictures in lines.

    Args:
        tiles: uint8 [lines, pictures, height, width, 3].
        names: of the lines.
    """
    import plotly.graph_objects as go
    from PIL import Image as Pictures

    lines, each, height, width, _ = tiles.shape
    spaced = np.full((lines, each, height + GAP, width + GAP, 3), PAPER, dtype=np.uint8)
    spaced[:, :, :height, :width] = tiles
    whole = spaced.transpose(0, 2, 1, 3, 4).reshape(lines * (height + GAP), each * (width + GAP), 3)
    with io.BytesIO() as file:
        Pictures.fromarray(whole).save(file, format="PNG")
        encoded = base64.b64encode(file.getvalue()).decode()
    figure = go.Figure(go.Image(source=f"data:image/png;base64,{encoded}", hoverinfo="skip"))
    centres = np.arange(lines) * (height + GAP) + height / 2
    figure.update_xaxes(visible=False)
    figure.update_yaxes(tickvals=centres, ticktext=list(names), showgrid=False, zeroline=False)
    return styled(figure, height=max(160, 60 + 48 * lines))
