"""Semantic textual similarity: how well cosines order pairs as people do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.rows import as_values


def sts(cosines: ArrayLike | Sequence[ArrayLike], gold: ArrayLike | Sequence[ArrayLike]) -> float:
    """Spearman correlation by the "all" rule: subsets are joined first, then one correlation is taken.

    Never a mean over subsets and never Pearson; the protocol of Gao et al. (SimCSE, EMNLP 2021, app. B).

    Args:
        cosines: [N], as from `pair_cosines`, or a sequence of such columns, one a subset.
        gold: the scores people gave, in the same form.

    Returns:
        Spearman's rho in -1 ... 1; 0 where all cosines are equal, as they then order nothing.

    Raises:
        ArgumentError: subsets or rows do not match, a value is not finite, fewer than two pairs, or all
            gold scores are equal.
    """
    from scipy.stats import spearmanr

    predicted, truth = _subsets(cosines, "cosines"), _subsets(gold, "gold")
    sizes = [len(column) for column in predicted], [len(column) for column in truth]
    if sizes[0] != sizes[1]:
        raise ArgumentError(f"cosines and gold must match row by row, got lengths {sizes[0]} and {sizes[1]}")
    ours, theirs = np.concatenate(predicted), np.concatenate(truth)
    if np.ptp(theirs) == 0:
        raise ArgumentError("all gold scores are equal (or there is one pair): nothing to order")
    if np.ptp(ours) == 0:
        return 0.0
    return float(spearmanr(ours, theirs).statistic)


def _subsets(values: ArrayLike | Sequence[ArrayLike], name: str) -> list[NDArray[np.float64]]:
    if isinstance(values, Sequence) and len(values) and np.ndim(values[0]) > 0:
        return [as_values(column, f"{name}[{i}]") for i, column in enumerate(values)]
    return [as_values(values, name)]  # type: ignore[arg-type]
