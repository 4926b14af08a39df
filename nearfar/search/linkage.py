"""Record linkage: the nearest row of another table, or none of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.search.index import Geometry, Index


@dataclass(frozen=True)
class Links:
    """For each of Q queries its nearest target.

    Attributes:
        nearest: numbers of targets, int64 [Q].
        scores: of the nearest, [Q]; higher is nearer.
    """

    nearest: np.ndarray
    scores: np.ndarray

    def at(self, threshold: float) -> np.ndarray:
        """The target that each query is linked to, -1 where its score is below the threshold: int64 [Q]."""
        return np.where(self.scores >= threshold, self.nearest, -1)


def link_nearest(queries: np.ndarray, targets: np.ndarray, geometry: Geometry = "cosine") -> Links:
    """Find the nearest target of each query, exactly; of equally near ones the first.

    Args:
        queries: [Q, d].
        targets: [M, d], one for each thing (its exemplar) or several.
        geometry: of the score.

    Raises:
        ArgumentError: as `Index`.
    """
    scores, ids = Index(targets, geometry).search(queries, 1)
    return Links(ids[:, 0], scores[:, 0])


def link_by_scores(scores: np.ndarray) -> Links:
    """The same from scores [Q, M] that exist already, such as those of `nearfar.search.strings`."""
    nearest = scores.argmax(axis=1)
    return Links(nearest, scores[np.arange(len(scores)), nearest])


def link_threshold(links: Links, right: ArrayLike, pairs: int) -> float:
    """The threshold at which linked pairs have the best F1.

        P = right links / links,    R = right links / pairs,    F1 = 2 P R / (P + R)

    It lies halfway between the last score that is linked and the next one; of thresholds with equal F1 the
    highest is taken. Tune it on other rows than those you report.

    Args:
        links: of Q queries whose answer is known.
        right: whether each nearest target is a true match, [Q].
        pairs: true pairs of these queries in all: Q or less where every query has one match or none.

    Raises:
        ArgumentError: not one answer for each query, or no true pair.
    """
    hits, scores = np.asarray(right, dtype=bool), np.asarray(links.scores, dtype=np.float64)
    if hits.shape != scores.shape:
        raise ArgumentError(f"right must say of each of the {len(scores)} queries, got shape {hits.shape}")
    if pairs < 1:
        raise ArgumentError("a threshold needs at least one true pair to be tuned on")
    order = np.argsort(-scores, kind="stable")
    linked = np.arange(1, len(order) + 1)
    f1 = 2 * np.cumsum(hits[order]) / (linked + pairs)
    found = scores[order]
    f1[:-1][found[:-1] == found[1:]] = -1  # equal scores are linked together or not at all
    return between(found, int(f1.argmax()))


def between(descending: np.ndarray, last: int) -> float:
    """A threshold that `descending[: last + 1]` reach and no lower value does."""
    if last == len(descending) - 1:
        return float(descending[-1])
    return float((descending[last] + descending[last + 1]) / 2)
