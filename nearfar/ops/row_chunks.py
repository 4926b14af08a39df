"""Functions of many rows against many columns, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

TEXTBOOK_CELLS = 1 << 22
"""Up to this many cells (rows x columns) a matrix is held as a whole: 16 MB of float32."""
CHUNK_CELLS = 1 << 20
"""Cells of one chunk of a larger matrix: 4 MB of float32 (in smaller ones threads wait for each other)."""

PerRow = Callable[[range], tuple[Tensor, ...]]
"""Rows to tensors whose first dimension is as long."""


def fits(n_rows: int, n_columns: int) -> bool:
    """Whether a matrix of this size may be held as a whole."""
    return n_rows * n_columns <= TEXTBOOK_CELLS


def row_chunks(n_rows: int, n_columns: int) -> Iterator[range]:
    """Cut rows so that one chunk against all columns has `CHUNK_CELLS` cells; at least one row each."""
    step = max(1, CHUNK_CELLS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield range(start, min(start + step, n_rows))


def over_row_chunks(function: PerRow, n_rows: int, n_columns: int) -> tuple[Tensor, ...]:
    """Call `function` on all rows, or on chunks of them that are computed again in the backward pass.

    In chunks, only one [chunk, n_columns] matrix and what `function` derives from it live at a time, in
    either pass; what is kept for backward is `function`'s inputs. Gradients reach everything it refers to.

    Args:
        function: rows -> tensors with one entry (first dimension) per row. Must be free of randomness.
        n_rows: N, rows in all, at least 1.
        n_columns: M, columns that each row meets.

    Returns:
        What `function` returns, over all N rows.
    """
    if fits(n_rows, n_columns):
        return function(range(n_rows))
    parts = [
        checkpoint(function, rows, use_reentrant=False, preserve_rng_state=False)
        for rows in row_chunks(n_rows, n_columns)
    ]
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
