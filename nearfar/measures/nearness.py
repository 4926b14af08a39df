"""How near rows are by what their space compares with, for measures that only look at the order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.measures.alignment import pair_cosines
from nearfar.measures.hyperbolic import hyperbolic_distances, lifted_pair
from nearfar.measures.rows import Embeddings, as_rows, unit_rows

Matrix = NDArray[Any]


def as_products(queries: Embeddings, keys: Embeddings, geometry: str) -> tuple[Matrix, Matrix]:
    """Rows whose inner products order the keys of a query as the geometry does ("gram": their sizes).

    Args:
        queries: [Q, d].
        keys: [M, d].
        geometry: a name of `nearfar.geometry.SCORES`.

    Returns:
        [Q, e] and [M, e].

    Raises:
        ArgumentError: bad rows.
    """
    if geometry == "lorentz":
        return lifted_pair(queries, keys)
    if geometry in ("cosine", "gram"):
        return unit_rows(queries, "queries"), unit_rows(keys, "keys")
    asked, held = as_rows(queries, "queries"), as_rows(keys, "keys")
    if geometry == "dot":
        return asked, held
    # -|q - k|^2 + |q|^2 = 2 q.k - |k|^2; in float64, since near keys differ in late digits.
    asked, held = asked.astype(np.float64), held.astype(np.float64)
    squares = np.einsum("md,md->m", held, held)[:, None]
    return np.hstack([2 * asked, np.ones((len(asked), 1))]), np.hstack([held, -squares])


def pair_nearness(x: Embeddings, y: Embeddings, geometry: str) -> Matrix:
    """How near row i of `x` is to row i of `y`, higher is nearer: [N].

    Args:
        x: [N, d].
        y: [N, d].
        geometry: a name of `nearfar.geometry.SCORES`.

    Raises:
        ArgumentError: bad rows.
    """
    if geometry == "lorentz":
        return -hyperbolic_distances(x, y)
    if geometry in ("cosine", "gram"):
        cosines = pair_cosines(x, y)
        return np.abs(cosines) if geometry == "gram" else cosines
    one, two = as_rows(x, "x").astype(np.float64), as_rows(y, "y").astype(np.float64)
    if geometry == "dot":
        return np.einsum("nd,nd->n", one, two)
    return -np.square(one - two).sum(axis=1)
