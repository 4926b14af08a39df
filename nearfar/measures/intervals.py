"""95% intervals: over seeds (Student t), over rows (bootstrap), of a share (Wilson)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.rows import as_values

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean (or other statistic) with the bounds of its 95% interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike) -> Interval:
    """Mean over seeds with the Student t interval, mean +- t_{0.975, n-1} s / sqrt(n).

    Args:
        values: [n], one figure a seed. One value alone has no interval: its bounds are NaN.

    Raises:
        ArgumentError: no value, or one that is not finite.
    """
    from scipy.stats import t as student

    column = as_values(values, "values")
    mean, n = float(column.mean()), len(column)
    if n == 1:
        return Interval(mean, float("nan"), float("nan"))
    half = float(student.ppf((1 + LEVEL) / 2, n - 1)) * float(column.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half)


def paired_interval(a: ArrayLike, b: ArrayLike) -> Interval:
    """Mean of a_i - b_i with its Student t interval; entry i of both comes from the same seed.

    Raises:
        ArgumentError: lengths differ, no value, or one that is not finite.
    """
    one, two = as_values(a, "a"), as_values(b, "b")
    if len(one) != len(two):
        raise ArgumentError(f"a and b must hold one value for each seed, got {len(one)} and {len(two)}")
    return mean_interval(one - two)


def paired_p(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of Student's t test that a_i - b_i has mean 0; 1 where all are 0.

    Raises:
        ArgumentError: as `paired_interval`, or fewer than two values.
    """
    from scipy.stats import t as student

    gap = as_values(a, "a") - as_values(b, "b")
    if len(gap) < 2:
        raise ArgumentError("a test over seeds needs at least two of them")
    spread = float(gap.std(ddof=1)) / len(gap) ** 0.5
    if spread == 0:
        return float(not gap.any())
    return float(2 * student.sf(abs(float(gap.mean())) / spread, len(gap) - 1))


def holm(p: Sequence[float]) -> list[bool]:
    """Which of several hypotheses are rejected with a chance of at most 5% that any is so wrongly (Holm 1979)."""
    rejected = [False] * len(p)
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[place] > (1 - LEVEL) / (len(p) - rank):
            break
        rejected[place] = True
    return rejected


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[NDArray[Any]], float] = np.mean,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """A statistic of rows with its percentile bootstrap interval (Efron 1979).

    Args:
        values: [n] or [n, ...]; rows are drawn with replacement.
        statistic: from drawn rows to a number.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        ArgumentError: no rows.
    """
    rows = np.asarray(values)
    if rows.ndim == 0 or len(rows) == 0:
        raise ArgumentError("values must hold at least one row")
    random = np.random.default_rng(seed)
    drawn = [float(statistic(rows[random.integers(len(rows), size=len(rows))])) for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(statistic(rows)), float(low), float(high))


def wilson_interval(successes: int, n: int) -> Interval:
    """A share with its score interval (Wilson 1927), sound near 0 and 1 where the normal one is not.

    Raises:
        ArgumentError: not 0 <= successes <= n with n >= 1.
    """
    from scipy.stats import norm

    if not (n >= 1 and 0 <= successes <= n):
        raise ArgumentError(f"successes must lie in 0 ... n with n >= 1, got {successes} of {n}")
    z = float(norm.ppf((1 + LEVEL) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))
