"""What every measure does first: check embeddings, scale rows to length one, cut or sample rows.

Rows are counted from 1 in messages, as the user counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

Embeddings: TypeAlias = "ArrayLike | Tensor"
"""Anything that becomes a float32 array [N, d]."""
Rows = NDArray[np.float32]
Indices = NDArray[np.int64]

EXACT_ROWS = 20_000
"""Above this many rows, a measure whose cost grows with N^2 is taken on a seeded sample."""
BLOCK_CELLS = 1 << 24
"""Similarities held at once (64 MB of float32)."""


class Estimate(NamedTuple):
    """A value and the number of rows that it was taken on (fewer than given: a seeded sample)."""

    value: float
    n: int


def as_rows(x: Embeddings, name: str) -> Rows:
    """Check embeddings and hand them over as float32 [N, d].

    Raises:
        ArgumentError: not a matrix, no rows, or a NaN or infinite value (the row is named).
    """
    tensor: Any = x
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):
        rows = np.asarray(tensor, dtype=np.float32)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ArgumentError(f"{name} must be a matrix of one embedding a row, got shape {rows.shape}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ArgumentError(
            f"{name}: row {bad[0] + 1} holds NaN or infinity ({len(bad)} such rows); "
            "drop these rows or repair what made them"
        )
    return rows


def unit_rows(x: Embeddings, name: str) -> Rows:
    """Check embeddings and scale every row to length one: float32 [N, d].

    Raises:
        ArgumentError: as `as_rows`, or a row of zeros, which has no direction.
    """
    rows = as_rows(x, name)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    zero = np.flatnonzero(lengths == 0.0)
    if len(zero):
        raise ArgumentError(
            f"{name}: row {zero[0] + 1} is all zeros and has no direction ({len(zero)} such rows)"
        )
    return np.divide(rows, lengths[:, None], out=np.empty_like(rows), casting="same_kind")


def unit_pair(x: Embeddings, y: Embeddings, names: tuple[str, str] = ("x", "y")) -> tuple[Rows, Rows]:
    """Two row-aligned matrices with rows of length one, [N, d] each.

    Raises:
        ArgumentError: as `unit_rows`, or the shapes differ.
    """
    one, two = unit_rows(x, names[0]), unit_rows(y, names[1])
    if one.shape != two.shape:
        raise ArgumentError(
            f"{names[0]} and {names[1]} must be row-aligned, got shapes {one.shape} and {two.shape}"
        )
    return one, two


def same_width(one: NDArray[Any], two: NDArray[Any], names: tuple[str, str]) -> None:
    """Raise ArgumentError unless both matrices have embeddings of one width."""
    if one.shape[1] != two.shape[1]:
        raise ArgumentError(
            f"{names[0]} is {one.shape[1]} wide, {names[1]} is {two.shape[1]} wide: not one space"
        )


def as_values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Check a column of numbers and hand it over as float64 [N].

    Raises:
        ArgumentError: not one-dimensional, empty, or a value is not finite (the row is named).
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise ArgumentError(f"{name} must be a column of numbers, got shape {column.shape}")
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise ArgumentError(f"{name}: row {bad[0] + 1} is not a finite number ({len(bad)} such rows)")
    return column


def as_labels(labels: ArrayLike, n: int, name: str) -> Indices:
    """Number classes 0 ... C-1 in sorted order: int64 [n].

    Raises:
        ArgumentError: not one label for each of the `n` rows.
    """
    column = np.asarray(labels)
    if column.shape != (n,):
        raise ArgumentError(f"{name} must hold one label for each of the {n} rows, got shape {column.shape}")
    return np.unique(column, return_inverse=True)[1].astype(np.int64)


def blocks(n: int, width: int) -> Iterator[slice]:
    """Cut `n` rows so that one block against `width` columns stays within `BLOCK_CELLS`."""
    step = max(1, BLOCK_CELLS // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def sample_rows(n: int, limit: int, seed: int) -> Indices:
    """All of 0 ... n-1 if there are at most `limit`, else a sorted sample of `limit` of them."""
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))
