"""How near two embeddings are: higher is nearer.

Every score takes a [..., N, d] and b [..., M, d] and gives [..., N, M], in float32 (float64 stays
float64), also inside `torch.autocast`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry.rows import at_least_float32, unit_rows

Score = Callable[[Tensor, Tensor], Tensor]
"""Rows [N, d] and rows [M, d] to scores [N, M]."""
ScoreName = Literal["cosine", "dot", "euclidean"]
"""The names in `SCORES` that objectives take: those whose sums stream."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products a_i . b_j of the rows as given.

    Args:
        a: [..., N, d].
        b: [..., M, d].
    """
    # Autocast would turn the product into half precision, in which logits of 1/0.05 keep two digits.
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).mT


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines a_i . b_j / (|a_i| |b_j|).

    Args:
        a: [..., N, d].
        b: [..., M, d].

    Raises:
        ArgumentError: a row is all zeros or not finite (the row is named).
    """
    return dot(unit_rows(a, "a"), unit_rows(b, "b"))


def negative_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """-|a_i - b_j|^2, never above 0.

    Args:
        a: [..., N, d].
        b: [..., M, d].
    """
    a, b = at_least_float32(a), at_least_float32(b)
    # Distances do not change when both are moved; near the origin |a|^2 + |b|^2 - 2 a.b cancels least.
    centre = b.detach().mean(dim=-2, keepdim=True)
    a, b = a - centre, b - centre
    squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
    return (2 * dot(a, b) - squares).clamp(max=0)


def euclidean_factors(queries: Tensor, keys: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Rows whose inner products are -|q_i - k_j|^2: (2 q, -|q|^2, 1) and (k, 1, -|k|^2) about the keys' mean.

    Args:
        queries: [B, d].
        keys: groups [M, d].

    Returns:
        [B, d + 2] and groups [M, d + 2].
    """
    queries = at_least_float32(queries)
    keys = [at_least_float32(group) for group in keys]
    # Distances do not change when both are moved; near the origin the terms cancel least.
    centre = keys[0].detach().mean(dim=0)
    queries, keys = queries - centre, [group - centre for group in keys]
    ones = [torch.ones_like(rows[:, :1]) for rows in (queries, *keys)]
    squares = [-rows.square().sum(1, keepdim=True) for rows in (queries, *keys)]
    both = zip(keys, ones[1:], squares[1:], strict=True)
    return torch.cat([2 * queries, squares[0], ones[0]], 1), [torch.cat(parts, 1) for parts in both]


def pair_distance(a: Tensor, b: Tensor, p: Literal[1, 2] = 2, *, squared: bool = False) -> Tensor:
    """Distances |a_i - b_j|_p; lower is nearer. Gradient 0 where two rows agree.

    Args:
        a: [..., N, d].
        b: [..., M, d].
        p: 1 for the sum of absolute differences, 2 for Euclidean.
        squared: with p = 2, the square.

    Raises:
        ArgumentError: `p` is neither 1 nor 2, or `squared` with p = 1.
    """
    if p not in (1, 2) or (squared and p == 1):
        raise ArgumentError(f"pair_distance knows p=1, p=2 and p=2 squared, got p={p}, squared={squared}")
    if squared:
        return -negative_squared_distance(a, b)
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(at_least_float32(a), at_least_float32(b), p=float(p), compute_mode=exact)
