"""Distances of the hyperboloid."""

import math
from functools import partial

import torch
from torch import Tensor

from nearfar.geometry import lorentz_inner, negative_lorentz_distance
from nearfar.objectives import info_nce


def points(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_point_is_on_the_hyperboloid_and_no_pair_is_closer_than_itself() -> None:
    x, y = points(6), points(5, 1)
    for c in (0.3, 1.0, 4.0):
        torch.testing.assert_close(lorentz_inner(x, x, c).diagonal(), torch.full((6,), -1 / c, dtype=x.dtype))
        assert bool((lorentz_inner(x, y, c) <= -1 / c).all())


def test_distances_along_a_geodesic_from_the_origin_are_arc_lengths() -> None:
    """sinh(sqrt(c) r) / sqrt(c) along a unit direction is a point at distance r of the origin."""
    r = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    for c in (0.5, 2.0):
        along = torch.sinh(math.sqrt(c) * r)[:, None] / math.sqrt(c) * torch.tensor([[0.6, 0.8, 0.0]])
        origin = torch.zeros(1, 3, dtype=torch.float64)
        torch.testing.assert_close(-negative_lorentz_distance(along, origin, c)[:, 0], r)
        torch.testing.assert_close(-negative_lorentz_distance(along, along, c)[0, 2], r[2] - r[0])


def test_it_is_a_metric_and_nearly_flat_at_small_curvature() -> None:
    x, y, z = points(4), points(4, 1), points(4, 2)
    d = lambda a, b: -negative_lorentz_distance(a, b)  # noqa: E731
    torch.testing.assert_close(d(x, y), d(y, x).T)
    assert bool((d(x, z)[:, None] <= d(x, y)[:, :, None] + d(y, z)[None] + 1e-12).all())
    flat = -negative_lorentz_distance(x, y, 1e-8)
    torch.testing.assert_close(flat, torch.cdist(x, y), rtol=1e-4, atol=1e-4)


def test_points_that_agree_have_finite_gradients_also_in_float32() -> None:
    for dtype in (torch.float32, torch.float64):
        x = points(3).to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(negative_lorentz_distance(x, x).sum(), x)
        assert bool(torch.isfinite(gradient).all())


def test_it_serves_info_nce_with_a_curvature_that_learns() -> None:
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    q, k = points(5).requires_grad_(), points(5, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, c: info_nce(
            q, k, temperature=0.5, symmetric=True, score=partial(negative_lorentz_distance, curvature=c)
        ),
        (q, k, c),
    )
