"""Alignment and uniformity on the unit sphere, and what pairs say about each other.

Wang, Isola. "Understanding Contrastive Representation Learning through Alignment and Uniformity on
the Hypersphere." ICML 2020. Rows are scaled to length one first. Values are comparable only at equal
d and t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.rows import (
    EXACT_ROWS,
    Embeddings,
    Estimate,
    as_labels,
    blocks,
    sample_rows,
    unit_pair,
    unit_rows,
)


@dataclass(frozen=True)
class AlignmentUniformity:
    """The two numbers with what they depend on.

    Attributes:
        alignment: mean |x_i - y_i|^alpha; None without a second view. Lower is closer.
        uniformity: mean of the uniformity of both views (or of the one). Lower is more spread.
        d: width of the embeddings.
        t: the t of the uniformity.
        n: rows that the uniformity was taken on.
    """

    alignment: float | None
    uniformity: float
    d: int
    t: float
    n: int


def alignment(x: Embeddings, y: Embeddings, alpha: float = 2) -> float:
    """Mean distance of positive pairs, mean_i |x_i - y_i|^alpha on unit rows (Wang & Isola 2020, eq. 3).

    Args:
        x: [N, d], y: [N, d]; row i of both is a positive pair.
        alpha: exponent of the distance; 2 gives 2 - 2 cos.

    Raises:
        ArgumentError: shapes differ, or a row is not finite or zero.
    """
    one, two = unit_pair(x, y)
    return float(np.mean(np.linalg.norm(one - two, axis=1).astype(np.float64) ** alpha))


def sampled_uniformity(x: Embeddings, t: float = 2, seed: int = 0) -> Estimate:
    """How evenly rows cover the sphere: log mean_{i<j} exp(-t |x_i - x_j|^2) (Wang & Isola 2020, eq. 4).

    As `uniformity`, with the number of rows it was taken on. Only distinct pairs count. 0 when all rows
    agree; for infinitely many rows spread evenly it tends to
    -2t + log 0F1(; d/2; t^2). Exact up to 20,000 rows, above that on a seeded sample of as many (see `n`).

    Args:
        x: [N, d] with N >= 2.
        t: weight of the squared distance, above 0.
        seed: of the sample.

    Raises:
        ArgumentError: fewer than two rows, t not above 0, or a row is not finite or zero.
    """
    rows = unit_rows(x, "x")
    if len(rows) < 2 or t <= 0:
        raise ArgumentError(
            f"uniformity needs two rows or more and t above 0, got {len(rows)} rows and t={t}"
        )
    rows = rows[sample_rows(len(rows), EXACT_ROWS, seed)]
    n, total = len(rows), -np.inf
    for block in blocks(n, n):
        exponents = 2 * t * (np.minimum(rows[block] @ rows[block.start :].T, 1) - 1)
        counted_before = np.tri(len(exponents), dtype=bool)
        exponents[:, : len(exponents)][counted_before] = -np.inf
        top = exponents.max()
        if np.isfinite(top):
            total = np.logaddexp(total, top + np.log(np.exp(exponents - top).sum(dtype=np.float64)))
    return Estimate(float(total - np.log(n * (n - 1) / 2)), n)


def uniformity(x: Embeddings, t: float = 2, seed: int = 0) -> float:
    """How evenly rows cover the sphere: log mean_{i<j} exp(-t |x_i - x_j|^2); see `sampled_uniformity`."""
    return sampled_uniformity(x, t, seed).value


def alignment_uniformity(
    x: Embeddings, y: Embeddings | None = None, t: float = 2, alpha: float = 2, seed: int = 0
) -> AlignmentUniformity:
    """Both numbers of Wang & Isola (2020) at once; see `alignment` and `uniformity`.

    Args:
        x: [N, d].
        y: [N, d], the positives of `x`; then the uniformity is the mean over the two.
        t: of the uniformity.
        alpha: of the alignment.
        seed: of the sample of a large table.

    Raises:
        ArgumentError: as the two functions.
    """
    spread = [sampled_uniformity(view, t, seed) for view in (x, y) if view is not None]
    return AlignmentUniformity(
        alignment=None if y is None else alignment(x, y, alpha),
        uniformity=float(np.mean([estimate.value for estimate in spread])),
        d=int(np.shape(x)[1]),
        t=t,
        n=spread[0].n,
    )


def pair_cosines(x: Embeddings, y: Embeddings) -> NDArray[np.float64]:
    """Cosine of row i of `x` and row i of `y`: [N].

    Raises:
        ArgumentError: shapes differ, or a row is not finite or zero.
    """
    one, two = unit_pair(x, y)
    return np.einsum("nd,nd->n", one, two, dtype=np.float64)


def mean_positive_cosine(x: Embeddings, y: Embeddings) -> float:
    """Mean cosine of positive pairs; with alpha = 2, alignment = 2 - 2 times this."""
    return float(pair_cosines(x, y).mean())


@dataclass(frozen=True)
class PositiveMargin:
    """Margins of positive pairs.

    Attributes:
        margins: [N], min over j != i of x_i.y_i - x_i.y_j.
        mismatched: share of pairs whose margin is not above 0, ties included.
    """

    margins: NDArray[np.float64]
    mismatched: float


def positive_margin(x: Embeddings, y: Embeddings, key_ids: ArrayLike | None = None) -> PositiveMargin:
    """By how much each positive beats the best other key: min_{j != i} (x_i.y_i - x_i.y_j), unit rows.

    The margin of "Explaining and Mitigating the Modality Gap in Contrastive Multimodal Learning" (CPAL
    2025, arXiv 2412.07909). Costs N^2 d, in memory O(N).

    Args:
        x: [N, d] and y: [N, d], row-aligned, N >= 2.
        key_ids: [N]; rows of `y` with equal ids are one key, and no competitor of each other.

    Raises:
        ArgumentError: bad rows, or a row has no other key to compare with.
    """
    one, two = unit_pair(x, y)
    n = len(one)
    ids = np.arange(n) if key_ids is None else as_labels(key_ids, n, "key_ids")
    margins = np.empty(n)
    for block in blocks(n, n):
        scores = one[block] @ two.T
        own = scores[np.arange(len(scores)), np.arange(block.start, block.stop)]
        scores[ids[block, None] == ids[None, :]] = -np.inf
        margins[block] = own - scores.max(axis=1)
    if not np.isfinite(margins).all():
        raise ArgumentError("positive_margin needs at least two different keys")
    return PositiveMargin(margins, float(np.mean(margins <= 0)))
