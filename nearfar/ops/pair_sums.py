"""Sums of a function over all pairs of rows: one pass over tiles, the gradient taken at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nearfar.ops.kept_gradients import keep, times_upstream
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.products import scores
from nearfar.ops.tiles import TILE, ranges

OfScores = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scores [r, c], which may be overwritten, to the values and the derivatives of a function of each."""


def pair_sum(
    x: Tensor, keys: Tensor, of_scores: OfScores, rule: PairRule | None = None, positive: Tensor | None = None
) -> Tensor:
    """sum_ij w_ij f(x_i . k_j), with w as the rule says: 6 N M d operations with the gradient.

    Where `keys` is `x` itself (and the rule symmetric) half of the matrix is enough: 3 N N d. The gradients are
    computed with the value and are all that is kept for the backward pass; there are no second ones.

    Args:
        x: [N, d], float32 or float64.
        keys: [M, d].
        of_scores: f and its derivative.
        rule: which pairs count; None: all.
        positive: [N] keys that the rule's `same` spares.

    Returns:
        A scalar.
    """
    itself = keys is x
    recording = torch.is_grad_enabled()
    wanted = recording and x.requires_grad, recording and keys.requires_grad and not itself
    problem = (of_scores, rule or PairRule(), positive, wanted)
    total: Tensor = _PairSum.apply(problem, x, None if itself else keys)
    return total


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: tuple[OfScores, PairRule, Tensor | None, tuple[bool, bool]],
        x: Tensor,
        other: Tensor | None,
    ) -> Tensor:
        of_scores, rule, positive, (want_x, want_keys) = problem
        keys = x if other is None else other
        d_x = torch.zeros_like(x) if want_x else None
        d_keys = torch.zeros_like(keys) if want_keys else None
        # Each tile is summed in the type of x, all of them in float64: there may be billions of pairs.
        total = x.new_zeros((), dtype=torch.float64)
        with torch.autocast(x.device.type, enabled=False):
            for rows in ranges(len(x), TILE):
                for columns in ranges(len(keys), TILE):
                    if other is None and columns.start < rows.start:
                        continue
                    mirrored = other is None and columns.start > rows.start
                    part, against = x[rows.start : rows.stop], keys[columns.start : columns.stop]
                    values, slopes = of_scores(scores(part, against, x.new_empty(len(rows), len(columns))))
                    rule.apply_(values, rows, columns, positive)
                    if slopes is not values:
                        rule.apply_(slopes, rows, columns, positive)
                    total += values.sum() * (2 if mirrored else 1)
                    if d_x is not None:
                        # s_ij = s_ji: a pair of a set with itself pulls at both of its rows.
                        twice = 2.0 if other is None else 1.0
                        d_x[rows.start : rows.stop].addmm_(slopes, against, alpha=twice)
                        if mirrored:
                            d_x[columns.start : columns.stop].addmm_(slopes.mT, part, alpha=twice)
                    if d_keys is not None:
                        d_keys[columns.start : columns.stop].addmm_(slopes.mT, part)
        keep(ctx, (d_x, d_keys))
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, *times_upstream(ctx, upstream)


def exponential(shift: float) -> OfScores:
    """exp(s - shift)."""

    def of_scores(found: Tensor) -> tuple[Tensor, Tensor]:
        e = found.sub_(shift).exp_()
        return e, e

    return of_scores


def softplus(found: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + exp(s)), without overflow."""
    return torch.nn.functional.softplus(found, threshold=100), found.sigmoid_()


@torch.no_grad()
def largest_score(x: Tensor, keys: Tensor, rule: PairRule | None = None) -> float:
    """max_ij x_i . k_j over the pairs that count."""
    largest = -torch.inf
    for rows in ranges(len(x), TILE):
        for columns in ranges(len(keys), TILE):
            found = x[rows.start : rows.stop] @ keys[columns.start : columns.stop].mT
            (rule or PairRule()).apply_(found, rows, columns, logs=True)
            largest = max(largest, float(found.amax()))
    return largest


def log_sum_exp_pairs(x: Tensor, keys: Tensor, rule: PairRule | None = None, *, bound: float) -> Tensor:
    """log sum_ij w_ij exp(x_i . k_j).

    Args:
        x: [N, d].
        keys: [M, d], or `x` itself (see `pair_sum`).
        rule: which pairs count; None: all. At least one must.
        bound: no score is above it.
    """
    shift = bound
    total = pair_sum(x, keys, exponential(shift), rule)
    if not float(total.detach()) > torch.finfo(x.dtype).tiny * 1e8:
        shift = largest_score(x, keys, rule)
        total = pair_sum(x, keys, exponential(shift), rule)
    return total.log() + shift
