"""How many of the negatives that a miner, queue or sampler chose are not negatives at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError


@dataclass(frozen=True)
class NegativeAudit:
    """Chosen negatives, seen with labels that training did not see.

    Attributes:
        false_negative_rate: share of chosen negatives with the label of their anchor.
        purity: share with another label, 1 - false_negative_rate.
        base_rate: the false-negative rate of choosing evenly from the pool (own row left out).
        mean_similarity: mean similarity of anchor and chosen negative (hardness); None if not given.
        n: negatives chosen.
    """

    false_negative_rate: float
    purity: float
    base_rate: float
    mean_similarity: float | None
    n: int


def negative_audit(
    labels: ArrayLike,
    negatives: ArrayLike,
    anchors: ArrayLike | None = None,
    similarities: ArrayLike | None = None,
) -> NegativeAudit:
    """Audit the negatives chosen for each anchor; anchors and negatives are rows of one labelled pool.

    Args:
        labels: [N] true label of each row of the pool.
        negatives: [A, K] positions in the pool; -1 where an anchor has fewer than K.
        anchors: [A] position of each anchor in the pool; None: anchor i is row i.
        similarities: [A, K] similarity of anchor and negative.

    Raises:
        ArgumentError: shapes or positions do not match, no negative at all, or an anchor is its own.
    """
    classes, chosen = np.asarray(labels), np.asarray(negatives)
    rows = np.arange(len(chosen)) if anchors is None else np.asarray(anchors)
    n = len(classes)
    if chosen.ndim != 2 or rows.shape != (len(chosen),):
        raise ArgumentError(
            f"negatives must be [A, K] with one anchor a row, got {chosen.shape} and {rows.shape}"
        )
    if n < 2 or min(rows.min(initial=0), chosen.min(initial=0) + 1) < 0 or max(rows.max(), chosen.max()) >= n:
        raise ArgumentError(
            f"negatives and anchors must be positions in the {n} rows of labels (negatives or -1)"
        )
    given = chosen >= 0
    if not given.any():
        raise ArgumentError("negatives holds no negative: every entry is -1")
    own = np.flatnonzero((chosen == rows[:, None]).any(axis=1))
    if len(own):
        raise ArgumentError(
            f"negatives: row {own[0] + 1} has its own anchor as negative ({len(own)} such rows)"
        )
    false = float(np.mean((classes[chosen] == classes[rows][:, None])[given]))
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    base = np.average((counts[inverse[rows]] - 1) / (n - 1), weights=given.sum(axis=1))
    similarity = None
    if similarities is not None:
        values = np.asarray(similarities, dtype=np.float64)
        if values.shape != chosen.shape or not np.isfinite(values[given]).all():
            raise ArgumentError(f"similarities must be finite and of the shape of negatives, {chosen.shape}")
        similarity = float(values[given].mean())
    return NegativeAudit(false, 1 - false, float(base), similarity, int(given.sum()))
