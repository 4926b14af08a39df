"""What is measured by distance in place of cosine where a space is hyperbolic (curvature -1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.rows import Embeddings, as_rows

Floats = NDArray[np.float64]


def radii(x: Embeddings) -> Floats:
    """Distance of every point from the root, arcsinh |x|: [N].

    Args:
        x: space components [N, d].

    Raises:
        ArgumentError: bad rows.
    """
    return np.arcsinh(np.linalg.norm(as_rows(x, "x").astype(np.float64), axis=1))


def hyperbolic_distances(x: Embeddings, y: Embeddings) -> Floats:
    """Distance of row i of `x` from row i of `y`: [N].

    Args:
        x: space components [N, d].
        y: [N, d].

    Raises:
        ArgumentError: bad rows, or the shapes differ.
    """
    one, two = as_rows(x, "x").astype(np.float64), as_rows(y, "y").astype(np.float64)
    if one.shape != two.shape:
        raise ArgumentError(f"x and y must be row-aligned, got shapes {one.shape} and {two.shape}")
    apart = np.sum((one - two) ** 2, axis=1) - (_times(one) - _times(two)) ** 2
    return 2 * np.arcsinh(np.sqrt(np.maximum(apart, 0)) / 2)


def lifted_pair(queries: Embeddings, keys: Embeddings) -> tuple[Floats, Floats]:
    """Rows whose inner products order keys by nearness: (q, -q_time) [Q, d + 1] and (k, k_time) [M, d + 1].

    Args:
        queries: space components [Q, d].
        keys: [M, d].

    Raises:
        ArgumentError: bad rows.
    """
    one, two = (
        as_rows(rows, name).astype(np.float64) for rows, name in ((queries, "queries"), (keys, "keys"))
    )
    return np.column_stack([one, -_times(one)]), np.column_stack([two, _times(two)])


def _times(x: Floats) -> Floats:
    times: Floats = np.sqrt(1 + np.einsum("nd,nd->n", x, x))
    return times
