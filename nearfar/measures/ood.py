"""How well scores tell rows that belong (in) from rows that do not (out)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError, check_between
from nearfar.measures.rows import as_values


@dataclass(frozen=True)
class OODResult:
    """Figures of out-of-distribution detection; none of them needs a threshold to be chosen.

    Attributes:
        auroc: probability that a row of the in-set scores higher than one of the out-set, ties counting half.
        fpr95: share of the out-set that is let in where at least 95% of the in-set are; lower is better.
        aupr_in: average precision with the in-set as what is looked for.
        aupr_out: the same with the out-set, by the negated score.
        n_in, n_out: rows.
    """

    auroc: float
    fpr95: float
    aupr_in: float
    aupr_out: float
    n_in: int
    n_out: int


def ood_metrics(inside: ArrayLike, outside: ArrayLike) -> OODResult:
    """All figures of one detector on one pair of sets.

    Both average precisions depend on how many rows the two sets have; the other figures do not.

    Args:
        inside: scores of rows of the training distribution [N]; higher means more at home.
        outside: scores of other rows [M].

    Raises:
        ArgumentError: no scores, or one that is not finite.
    """
    one, two = as_values(inside, "inside"), as_values(outside, "outside")
    return OODResult(
        auroc(one, two),
        fpr_at_tpr(one, two),
        average_precision(one, two),
        average_precision(-two, -one),
        len(one),
        len(two),
    )


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(positive > negative) + 1/2 P(positive = negative), over all pairs (Mann-Whitney U over N M).

    Raises:
        ArgumentError: as `ood_metrics`.
    """
    one, two = as_values(positive, "positive"), np.sort(as_values(negative, "negative"))
    below, not_above = np.searchsorted(two, one, "left"), np.searchsorted(two, one, "right")
    return float((below + not_above).sum() / (2 * len(one) * len(two)))


def fpr_at_tpr(positive: ArrayLike, negative: ArrayLike, tpr: float = 0.95) -> float:
    """Share of the negatives at or above the highest threshold that at least `tpr` of the positives reach.

    Raises:
        ArgumentError: as `ood_metrics`, or a share that is not in [0, 1].
    """
    two = as_values(negative, "negative")
    return float(np.mean(two >= keeping_threshold(positive, tpr)))


def keeping_threshold(scores: ArrayLike, share: float = 0.95) -> float:
    """The highest score that at least `share` of the scores reach (infinity where none has to).

    Raises:
        ArgumentError: as `ood_metrics`, or a share that is not in [0, 1].
    """
    check_between(0, 1, share=share)
    column = np.sort(as_values(scores, "scores"))[::-1]
    # 0.95 * 20 is above 19 in binary fractions: less than a rounding error may not ask for one row more.
    wanted = int(np.ceil(share * len(column) - 1e-9 * len(column)))
    return float(column[wanted - 1]) if wanted else float("inf")


def average_precision(positive: ArrayLike, negative: ArrayLike) -> float:
    """Sum over thresholds of (recall gained) x (precision there); equal scores enter together.

    Raises:
        ArgumentError: as `ood_metrics`.
    """
    one, two = as_values(positive, "positive"), as_values(negative, "negative")
    thresholds, gained = np.unique(one, return_counts=True)
    hits, false = _at_least(one, thresholds), _at_least(two, thresholds)
    return float(np.sum(gained / len(one) * hits / (hits + false)))


def _at_least(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many scores reach each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, "left")


def mean_over_sets(results: list[OODResult]) -> tuple[float, float]:
    """Means of AUROC and of FPR95 over several out-sets, each counting once.

    Raises:
        ArgumentError: there is none.
    """
    if not results:
        raise ArgumentError("no results to average: give one for each out-of-distribution set")
    return float(np.mean([r.auroc for r in results])), float(np.mean([r.fpr95 for r in results]))
