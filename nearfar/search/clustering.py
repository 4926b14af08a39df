"""Single linkage: rows that a chain of near rows connects are one cluster.

With a threshold on the cosine this is DBSCAN with min_samples=1 and eps = 1 - threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES, dot, finite_rows, unit_rows
from nearfar.progress import track
from nearfar.search.index import Geometry
from nearfar.search.linkage import between


@dataclass(frozen=True)
class Merges:
    """The tree of N rows that all thresholds cut: pairs whose clusters become one, nearest first.

    Attributes:
        pairs: rows, int64 [N - 1, 2].
        scores: how near the two rows are, float64 [N - 1], descending.
    """

    pairs: np.ndarray
    scores: np.ndarray

    def clusters(self, threshold: float) -> np.ndarray:
        """The cluster of each row, int64 [N], numbered from 0 in the order of their first rows.

        Args:
            threshold: rows whose score reaches it are one cluster, and so is what such rows connect.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        n, kept = len(self.scores) + 1, self.pairs[self.scores >= threshold]
        graph = coo_array((np.ones(len(kept)), (kept[:, 0], kept[:, 1])), shape=(n, n))
        return connected_components(graph, directed=False)[1].astype(np.int64)


def single_linkage(z: np.ndarray, geometry: Geometry = "cosine") -> Merges:
    """The merges of embeddings: N^2 d operations, memory linear in N.

    Args:
        z: [N, d].
        geometry: of the score, a name of `nearfar.geometry.SCORES`.

    Raises:
        ArgumentError: the geometry is unknown, there are no rows, or one is not finite (with "cosine": all zeros).
    """
    if geometry not in SCORES or np.ndim(z) != 2 or not len(z):
        raise ArgumentError(
            f"z must be a matrix with one embedding a row, and geometry one of {', '.join(SCORES)}; got shape "
            f"{np.shape(z)} and {geometry!r}"
        )
    given = torch.as_tensor(z, dtype=torch.float32)
    # Unit rows once, and not again for every row that is asked for.
    rows = unit_rows(given, "z") if geometry == "cosine" else finite_rows(given, "z")
    score = dot if geometry == "cosine" else SCORES[geometry]
    return merges_of(lambda row: score(rows[row : row + 1], rows)[0].numpy(), len(rows))


def merges_of(scores_of: Callable[[int], np.ndarray], n: int) -> Merges:
    """The merges under any symmetric score: a maximum spanning tree.

    Prim. "Shortest Connection Networks and Some Generalizations." Bell System Technical Journal 1957.

    Args:
        scores_of: scores of one row with all rows, [n]; each row is asked for once.
        n: number of rows, N.
    """
    best, nearest = np.full(n, -np.inf), np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    pairs, scores, new = np.empty((n - 1, 2), dtype=np.int64), np.empty(n - 1), 0
    for step in track(range(n - 1), "connecting rows"):
        outside[new] = False
        found = scores_of(new)
        nearer = outside & (found > best)
        best[nearer], nearest[nearer] = found[nearer], new
        new = int(np.where(outside, best, -np.inf).argmax())
        pairs[step], scores[step] = (nearest[new], new), best[new]
    order = np.argsort(-scores, kind="stable")
    return Merges(pairs[order], scores[order])


def cluster_threshold(merges: Merges, labels: ArrayLike) -> float:
    """The threshold at which clusters agree best with labels, by the adjusted Rand index.

    All thresholds are tried, since the clusters change only at N - 1 of them. It lies halfway between the last
    score that is merged and the next one; of equally good ones the highest is taken. Tune it on other rows
    than those you report; labels that only one row has count as well.

    Args:
        merges: of N labelled rows.
        labels: [N].

    Raises:
        ArgumentError: not one label for each row.
    """
    names = np.asarray(labels)
    n = len(merges.scores) + 1
    if names.shape != (n,):
        raise ArgumentError(f"labels must be one for each of the {n} rows, got shape {names.shape}")
    if n == 1:
        return float("inf")
    quality = _agreement(merges, names)
    scores = merges.scores
    quality[1:-1][scores[:-1] == scores[1:]] = -np.inf  # equal scores are merged together or not at all
    best = int(quality.argmax())
    return between(scores, best - 1) if best else float(np.nextafter(scores[0], np.inf))


def _agreement(merges: Merges, labels: np.ndarray) -> np.ndarray:
    """The adjusted Rand index after no merge, one merge, ..., all N - 1: [N].

    With S pairs of rows that share cluster and label, A that share a cluster, B a label, of T in all:

        (S - A B / T) / ((A + B) / 2 - A B / T)        Hubert, Arabie. "Comparing Partitions." 1985, eq. 5
    """
    n = len(labels)
    members = [Counter({label: 1}) for label in labels.tolist()]
    root = list(range(n))
    shared, together = np.zeros(n), np.zeros(n)
    for step, (one, two) in enumerate(merges.pairs.tolist(), start=1):
        small, large = sorted((_root(root, one), _root(root, two)), key=lambda row: members[row].total())
        shared[step] = sum(count * members[large][label] for label, count in members[small].items())
        together[step] = members[small].total() * members[large].total()
        members[large].update(members[small])
        root[small] = large
    s, a = np.cumsum(shared), np.cumsum(together)
    b, t = s[-1], a[-1]
    expected, most = a * b / t, (a + b) / 2
    return np.divide(s - expected, most - expected, out=np.ones(n), where=most != expected)


def _root(root: list[int], row: int) -> int:
    while root[row] != row:
        root[row] = root[root[row]]
        row = root[row]
    return row
