"""Cutting a matrix of rows and columns into tiles, and reading single entries out of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nearfar.ops.softmax_terms import Group

TILE = 1024
"""Rows and columns of a tile: 4 MB of float32, of which exponentials are taken in cache."""


def ranges(n: int, step: int) -> Iterator[range]:
    """0 .. n - 1 in pieces of `step`, the last one shorter."""
    for start in range(0, n, step):
        yield range(start, min(start + step, n))


def column_tiles(groups: Sequence[Group]) -> Iterator[tuple[int, range, int]]:
    """Group, columns of it, and where they start among the columns of all groups."""
    before = 0
    for index, group in enumerate(groups):
        for columns in ranges(len(group.keys), TILE):
            yield index, columns, before + columns.start
        before += len(group.keys)


def gather(tile: Tensor, columns: range, n_columns: int, index: Tensor, out: Tensor) -> None:
    """out[i] = tile[i, index[i] - columns.start] where that is a column of the tile.

    Args:
        tile: [r, c].
        columns: c of the n_columns columns of the matrix.
        n_columns: in all.
        index: [r] columns of the matrix.
        out: [r], changed in place.
    """
    if len(columns) == n_columns:
        out.copy_(tile.gather(1, index[:, None])[:, 0])
        return
    place = index - columns.start
    inside = ((place >= 0) & (place < len(columns))).nonzero()[:, 0]
    out[inside] = tile[inside, place[inside]]


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """a_i . b_i of rows [N, d]: [N], without a product as large as they are."""
    parts = [(a[r.start : r.stop] * b[r.start : r.stop]).sum(1) for r in ranges(len(a), 4 * TILE)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
