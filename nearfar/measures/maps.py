"""Samples for pictures: cosines for a histogram, two coordinates for a map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.alignment import pair_cosines
from nearfar.measures.rows import Embeddings, Indices, as_rows, sample_rows, unit_pair

MAP_ROWS = 5_000


def positive_negative_cosines(
    x: Embeddings, y: Embeddings, n: int = 10_000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of at most `n` pairs, and of as many rows with another row's partner, for histograms.

    Args:
        x: [N, d] and y: [N, d], row-aligned, N >= 2.
        n: how many of each.
        seed: of the sample.

    Returns:
        Cosines of (x_i, y_i) and of (x_i, y_j) with j drawn evenly from all but i, each [min(n, N)].

    Raises:
        ArgumentError: fewer than two rows, n below 1, shapes differ, or bad rows.
    """
    one, two = unit_pair(x, y)
    if len(one) < 2 or n < 1:
        raise ArgumentError(
            f"cosines of negatives need two rows or more and n of 1 or more, got {len(one)} and {n}"
        )
    rows = sample_rows(len(one), n, seed)
    others = np.random.default_rng([seed, 1]).integers(len(one) - 1, size=len(rows))
    others += others >= rows
    return pair_cosines(one[rows], two[rows]), pair_cosines(one[rows], two[others])


def pca_map(z: Embeddings, seed: int = 0) -> tuple[NDArray[np.float64], Indices]:
    """Rows in the plane of their two largest principal components.

    The sign of each axis is fixed by making its largest loading positive. With one dimension, or where
    all rows are equal, the missing coordinates are 0.

    Args:
        z: [N, d].
        seed: of the sample, where there are more than 5,000 rows.

    Returns:
        Coordinates [M, 2] and the rows they belong to [M], M <= 5,000.

    Raises:
        ArgumentError: a row is not finite.
    """
    rows = as_rows(z, "z")
    kept = sample_rows(len(rows), MAP_ROWS, seed)
    centred = rows[kept].astype(np.float64)
    centred -= centred.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
    coordinates = np.zeros((len(kept), 2))
    coordinates[:, : axes.shape[1]] = centred @ axes
    return coordinates, kept
