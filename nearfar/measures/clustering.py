"""Clusterings against labels."""

from __future__ import annotations

import warnings
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.measures.rows import Embeddings, as_labels, unit_rows

STARTS = 3


@dataclass(frozen=True)
class ClusteringMetrics:
    """How well clusters match classes; 1 is perfect for all four.

    Attributes:
        accuracy: share of rows in the class of their cluster under the best one-to-one matching of clusters
            and classes (Hungarian; with more clusters than classes, some stay without a class).
        nmi: mutual information over the arithmetic mean of both entropies.
        ari: Rand index adjusted for chance (Hubert, Arabie 1985), 0 on average for random clusters.
        purity: share of rows in the commonest class of their cluster; grows with the number of clusters.
    """

    accuracy: float
    nmi: float
    ari: float
    purity: float


def clustering_metrics(pred: ArrayLike, y: ArrayLike) -> ClusteringMetrics:
    """Compare clusters with classes; both may be any integers or strings, in different numbers.

    Args:
        pred: [N] cluster of each row.
        y: [N] class of each row.

    Raises:
        ArgumentError: not one cluster and one class for each row, or no rows.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    n = np.size(y)
    if n == 0:
        raise ArgumentError("clustering_metrics needs at least one row")
    clusters, classes = as_labels(pred, n, "pred"), as_labels(y, n, "y")
    table = np.zeros((clusters.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters, classes), 1)
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return ClusteringMetrics(
        accuracy=float(matched / n),
        nmi=float(normalized_mutual_info_score(classes, clusters)),
        ari=float(adjusted_rand_score(classes, clusters)),
        purity=float(table.max(axis=1).sum() / n),
    )


def kmeans_measure(z: Embeddings, y: ArrayLike, seed: int = 0) -> ClusteringMetrics:
    """k-means on unit rows with as many clusters as classes; mean over 3 starts.

    Args:
        z: [N, d].
        y: [N] classes.
        seed: of the first start; the others take the numbers that follow.

    Raises:
        ArgumentError: bad rows, or labels that do not match.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = unit_rows(z, "z")
    classes = as_labels(y, len(rows), "y")
    found = []
    with warnings.catch_warnings():
        # Fewer different rows than classes: some clusters stay empty, which the figures then show.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for start in range(seed, seed + STARTS):
            clusters = KMeans(int(classes.max()) + 1, n_init=1, random_state=start).fit_predict(rows)
            found.append(astuple(clustering_metrics(clusters, classes)))
    return ClusteringMetrics(*(float(value) for value in np.mean(found, axis=0)))
