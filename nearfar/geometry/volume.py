"""How far several unit vectors are from lying together: the volume of the parallelotope that they span.

    V(m_1 .. m_k) = sqrt(det G),  G_ab = m_a . m_b                 0 <= V <= 1; of two vectors sqrt(1 - cos^2)

V does not change when the vectors change places or are turned together, and is 0 where they lie in fewer than k
dimensions. It is blind to signs: opposite vectors span nothing, as equal ones do.

Cicchetti, Grassucci, Sigillo, Comminiello. "Gramian Multimodal Representation Learning and Alignment." ICLR 2025,
eq. 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.geometry.rows import unit_rows
from nearfar.geometry.scores import dot

LEAST = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Smallest squared volume: below it digits are rounding, and the slope of the root has no bound."""
_RIDGE = 1e-10
"""Added to the diagonal of Gram matrices, so that those of dependent vectors have a Cholesky factor."""


def gram_volume(vectors: Tensor) -> Tensor:
    """V of every set of k vectors.

    Args:
        vectors: [..., k, d]; scaled to length one here.

    Returns:
        [...], float32 or float64, at least the root of `LEAST`.

    Raises:
        ArgumentError: a vector is zero or not finite.
    """
    unit = unit_rows(vectors, "vectors")
    return _root(_span(unit)[0].square())


def negative_volumes(queries: Tensor, items: Tensor) -> Tensor:
    """-V of the query i together with all vectors of the item j, higher is nearer.

    The volume is that of the item's vectors times the distance of the query from their span, so that only B + M small
    Gram matrices are factored instead of B M.

    Args:
        queries: [B, d].
        items: [M, k - 1, d].

    Returns:
        [B, M], float32 or float64.

    Raises:
        ArgumentError: a vector is zero or not finite.
    """
    queries, items = unit_rows(queries, "queries"), unit_rows(items, "items")
    volume, basis = _span(items)
    within = dot(queries, basis.flatten(0, 1)).unflatten(1, basis.shape[:2]).square().sum(-1)
    return -_root(volume.square() * (1 - within))


def negative_pair_volume(a: Tensor, b: Tensor) -> Tensor:
    """-sqrt(1 - cos^2) of row i of a and row j of b: [..., N, d] and [..., M, d] to [..., N, M]."""
    return -_root(1 - dot(unit_rows(a, "a"), unit_rows(b, "b")).square())


def _span(unit: Tensor) -> tuple[Tensor, Tensor]:
    """The volume [...] of k unit vectors [..., k, d], and an orthonormal basis [..., k, d] of their span."""
    exact = unit.double()
    gram = dot(exact, exact)
    factor = torch.linalg.cholesky(gram + _RIDGE * torch.eye(gram.shape[-1], device=gram.device))
    basis = torch.linalg.solve_triangular(factor, exact, upper=False)
    volume = factor.diagonal(dim1=-2, dim2=-1).prod(-1)
    return volume.to(unit.dtype), basis.to(unit.dtype)


def _root(squared: Tensor) -> Tensor:
    return squared.clamp(min=LEAST[squared.dtype]).sqrt()
