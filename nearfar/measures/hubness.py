"""Hubness: keys that are near neighbours of far too many rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nearfar.errors import ArgumentError
from nearfar.measures.rows import (
    EXACT_ROWS,
    Embeddings,
    Indices,
    Rows,
    blocks,
    same_width,
    sample_rows,
    unit_rows,
)


@dataclass(frozen=True)
class Hubness:
    """How unevenly near neighbours are shared out among keys.

    Attributes:
        skewness: E[(N_k - mean)^3] / std^3 of the counts; near 0 without hubs, large with them.
        antihubs: share of keys that are nobody's neighbour (N_k = 0).
        counts: N_k of each key, how many rows have it among their k nearest, [M].
        k: neighbours taken for each row.
        n: rows whose neighbours were taken.
    """

    skewness: float
    antihubs: float
    counts: Indices
    k: int
    n: int


def nearest(queries: Rows, keys: Rows, k: int, own: Indices | None = None) -> tuple[Indices, Rows]:
    """The `k` keys of largest cosine of every query, best first: (positions [Q, k], cosines [Q, k]).

    Args:
        queries: unit rows [Q, d].
        keys: unit rows [M, d], k <= M (k < M with `own`).
        k: how many.
        own: [Q], for each query the position of the key that is the query itself, left out.
    """
    found = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    for block in blocks(len(queries), len(keys)):
        scores = queries[block] @ keys.T
        if own is not None:
            scores[np.arange(len(scores)), own[block]] = -np.inf
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found[block] = np.take_along_axis(best, order, axis=1)
        cosines[block] = np.take_along_axis(values, order, axis=1)
    return found, cosines


def hubness(x: Embeddings, keys: Embeddings | None = None, k: int = 10, seed: int = 0) -> Hubness:
    """Skewness of the k-occurrence N_k by cosine, and the share of anti-hubs.

    Radovanovic, Nanopoulos, Ivanovic. "Hubs in Space: Popular Nearest Neighbors in High-Dimensional
    Data." JMLR 2010. Without `keys`, rows are each other's keys and no row is its own neighbour; above
    20,000 rows a seeded sample of as many is taken (the value depends on the number of rows).

    Args:
        x: [N, d]; the queries where `keys` are given.
        keys: [M, d].
        k: neighbours; k < N, or k <= M with `keys`.
        seed: of the sample.

    Raises:
        ArgumentError: k is too large, widths differ, or a row is not finite or zero.
    """
    rows = unit_rows(x, "x")
    rows = rows[sample_rows(len(rows), EXACT_ROWS, seed)]
    targets = rows if keys is None else unit_rows(keys, "keys")
    same_width(rows, targets, ("x", "keys"))
    most = len(targets) - (keys is None)
    if not 1 <= k <= most:
        raise ArgumentError(f"k must lie in 1 ... {most} for {len(targets)} keys, got {k}")
    found, _ = nearest(rows, targets, k, np.arange(len(rows)) if keys is None else None)
    counts = np.bincount(found.ravel(), minlength=len(targets))
    deviation = counts - counts.mean()
    spread = float(np.sqrt(np.mean(deviation**2)))
    skewness = float(np.mean(deviation**3)) / spread**3 if spread > 0 else 0.0
    return Hubness(skewness, float(np.mean(counts == 0)), counts, k, len(rows))
