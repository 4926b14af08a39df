"""How evenly embeddings cover the unit sphere.

Wang, Isola. "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere." ICML 2020. Values are comparable only at equal d and t.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import unit_rows
from nearfar.objectives.inputs import check_alike, check_one_width
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.pair_sums import log_sum_exp_pairs


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """log mean_{i<j} exp(-t |x_i - x_j|^2) over distinct pairs (eq. 4). Rows are scaled to length one here.

    0 when all rows agree; `uniform_optimum` when infinitely many rows are spread evenly. In tiles, so that no
    N x N matrix is made; half of the pairs are enough.

    Args:
        x: [N, d] with N >= 2.
        t: weight of the squared distance, above 0.

    Raises:
        ArgumentError: fewer than two rows, t not above 0, or a row is zero or not finite.
    """
    _check(x, t, 2)
    x = unit_rows(x, "x")
    return _log_sum(x, x, t, skip_self=True) - math.log(len(x) * (len(x) - 1))


def uniformity_to_queue(q: Tensor, queue: Tensor, t: float = 2.0, *, within_batch: bool = True) -> Tensor:
    """log mean exp(-t |q_i - k|^2) over the queue and, if `within_batch`, over distinct pairs of the batch.

    The form for momentum encoders of the same paper's second repository. Every pair counts once, so that B K
    pairs with the queue stand beside B (B - 1) / 2 of the batch. Rows are scaled to length one here.

    Args:
        q: queries, [B, d].
        queue: keys, [K, d]; detach them if they should receive no gradient.
        t: weight of the squared distance, above 0.
        within_batch: whether the pairs of the batch count too.

    Raises:
        ArgumentError: an empty batch or queue, widths, types or devices differ, or as `uniformity`.
    """
    _check(q, t, 1)
    check_alike({"q": q, "queue": queue})
    check_one_width(q, queue)
    if len(queue) == 0:
        raise ArgumentError("the queue holds no keys")
    q, queue = unit_rows(q, "q"), unit_rows(queue, "queue")
    total, pairs = _log_sum(q, queue, t), len(q) * len(queue)
    if within_batch and len(q) > 1:
        total = torch.logaddexp(total, _log_sum(q, q, t, skip_self=True) - math.log(2))
        pairs += len(q) * (len(q) - 1) // 2
    return total - math.log(pairs)


def _check(x: Tensor, t: float, rows: int) -> None:
    if x.ndim != 2 or len(x) < rows or not t > 0:
        raise ArgumentError(
            f"uniformity needs [N, d] with at least {rows} rows and t above 0, got {list(x.shape)}, t={t}"
        )


def _log_sum(a: Tensor, b: Tensor, t: float, *, skip_self: bool = False) -> Tensor:
    """log sum_ij exp(-t |a_i - b_j|^2) of unit rows, without i = j if asked."""
    # 2 t (a.b - 1): a set with itself stays one, so that half of its symmetric matrix is enough.
    root = math.sqrt(2 * t)
    x = a * root
    return (
        log_sum_exp_pairs(x, x if b is a else b * root, PairRule(skip_diagonal=skip_self), bound=2 * t)
        - 2 * t
    )


def uniform_optimum(d: int, t: float) -> float:
    """The uniformity of infinitely many rows spread evenly: -2t + log 0F1(; d/2; t^2).

    E exp(2t u.v) over independent uniform u, v is 0F1(; d/2; t^2) = sum_k t^(2k) / (k! (d/2)_k).
    All terms are positive, so that their logarithms sum without cancellation or overflow at any d and t.

    Args:
        d: width of the embeddings, at least 1.
        t: weight of the squared distance, above 0.

    Raises:
        ArgumentError: d below 1 or t not above 0.
    """
    if d < 1 or not t > 0:
        raise ArgumentError(f"uniform_optimum needs d >= 1 and t above 0, got d={d}, t={t}")
    # Beyond k = 2t every term is below a quarter of the one before.
    k = np.arange(1, 2 * math.ceil(t) + 64)
    terms = np.concatenate([[0.0], np.cumsum(2 * math.log(t) - np.log(k) - np.log(d / 2 + k - 1))])
    return float(np.logaddexp.reduce(terms)) - 2 * t
