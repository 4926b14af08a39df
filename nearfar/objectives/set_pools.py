"""Sets of rows, pooled coordinate by coordinate, instead of rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.geometry import unit_rows
from nearfar.objectives.inputs import check_temperature


def set_contrast(
    own: Tensor, near: Tensor, far: Tensor, sets: Tensor, *, temperature: float, beta: float = 1.0
) -> Tensor:
    """A set is near what its related texts have in common, and far from all that its unrelated texts touch.

        mean over sets of -log( e^f(min, min+) / ( e^f(min, min+) + beta e^f(max, max-) ) )      f = cosine / t

    min and max are taken coordinate by coordinate over the rows of a set: min of `own`, min+ of `near`, max of
    `own`, max- of `far`. With sets of one row it contrasts rows. Which pooling makes min+ and max-, f and t are
    reconstructed; the rest is as reviews of the paper report its algorithm 1.

    Nguyen, Wu, Dong, Nguyen, Ng, Luu. "Topic Modeling as Multi-Objective Contrastive Optimization." ICLR 2024.

    Args:
        own: [B, T].
        near: a related view of each row [B, T].
        far: an unrelated view of each row [B, T].
        sets: row numbers [S, K] of the members of each set.
        temperature: t, above 0.
        beta: weight of the far pair, above 0.

    Raises:
        ArgumentError: shapes differ, `sets` is no matrix of rows, or t or beta is not above 0.
    """
    check_temperature(temperature)
    if not 0 < beta < math.inf:
        raise ArgumentError(f"beta must be above 0, got {beta}")
    if (
        own.ndim != 2
        or near.shape != own.shape
        or far.shape != own.shape
        or sets.ndim != 2
        or not sets.numel()
    ):
        raise ArgumentError(
            "own, near and far must be [B, T] each and sets row numbers [S, K], got "
            f"{list(own.shape)}, {list(near.shape)}, {list(far.shape)} and {list(sets.shape)}"
        )
    least, least_near = own[sets].amin(1), near[sets].amin(1)
    most, most_far = own[sets].amax(1), far[sets].amax(1)
    pull = _cosines(least, least_near) / temperature
    push = _cosines(most, most_far) / temperature
    return functional.softplus(push + math.log(beta) - pull).mean()


def random_sets(rows: int, size: int, shuffles: int, device: torch.device | None = None) -> Tensor:
    """Cut the rows of a batch into sets, several times over in another order each: [shuffles * (rows // size), size].

    Raises:
        ArgumentError: fewer rows than a set has.
    """
    if rows < size:
        raise ArgumentError(f"a batch of {rows} rows holds no set of {size}: use larger batches")
    orders = [torch.randperm(rows, device=device)[: rows // size * size] for _ in range(shuffles)]
    return torch.cat(orders).view(-1, size)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return (unit_rows(a, "pooled rows") * unit_rows(b, "pooled rows")).sum(-1)
