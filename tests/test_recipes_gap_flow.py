"""The modality gap as a process: the reduced loss is the whole one, and the flow is what the paper says of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.recipes import gap_flow
from nearfar.recipes.gap_flow import Flow, gap_loss, gap_to_temperature_ratio, simulate

POINTS = [(2.5, 0.3), (8.0, 0.05), (20.0, -0.7), (1.2, 0.9)]
"""beta and g."""


def clouds(seed: int, n: int = 7, d: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(n, d - 1, generator=generator, dtype=torch.float64) for _ in range(2))
    u, v = (functional.normalize(points, dim=1) for points in drawn)
    return u, v


def lifted(u: Tensor, v: Tensor, g: Tensor | float) -> tuple[Tensor, Tensor]:
    """The clouds themselves: x = [sqrt(1 - g^2) u; g], y = [sqrt(1 - g^2) v; -g]."""
    g = torch.as_tensor(g, dtype=torch.float64)
    column, shrink = g.expand(len(u), 1), (1 - g.square()).sqrt()
    return torch.cat([shrink * u, column], dim=1), torch.cat([shrink * v, -column], dim=1)


def whole_loss(u: Tensor, v: Tensor, nu: Tensor, g: Tensor) -> Tensor:
    """SymCE(exp(nu) X Y^T) of the lifted clouds, one logarithm at a time."""
    x, y = lifted(u, v, g)
    scores = nu.exp() * x @ y.T
    own = scores.diagonal()
    return ((scores.logsumexp(1) - own).mean() + (scores.logsumexp(0) - own).mean()) / 2


def scalars(beta: float, g: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(math.log(beta), dtype=torch.float64), torch.tensor(g, dtype=torch.float64)


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "g"), POINTS)
def test_the_reduced_loss_is_the_whole_loss_with_its_gradients(beta: float, g: float) -> None:
    """The constant -beta g^2 of every score cancels in the softmax."""
    results = []
    for loss in (whole_loss, gap_loss):
        moving = [tensor.clone().requires_grad_() for tensor in (*clouds(0), *scalars(beta, g))]
        value = loss(*moving)
        results.append((value, *torch.autograd.grad(value, moving)))
    for whole, reduced in zip(*results, strict=True):
        torch.testing.assert_close(reduced, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("beta", "g"), POINTS)
def test_the_lifted_rows_are_unit_and_their_scores_hold_the_constant(beta: float, g: float) -> None:
    u, v = clouds(1)
    x, y = lifted(u, v, g)
    for rows in (x, y):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(beta * x @ y.T, beta * (1 - g**2) * u @ v.T - beta * g**2)


@pytest.mark.parametrize("g", [0.0, 0.1, 0.6])
def test_the_gap_is_at_least_2g_and_just_that_with_matched_centres(g: float) -> None:
    u, v = clouds(2)
    for other, matched in ((v, False), (u.flip(0), True)):
        x, y = lifted(u, other, g)
        gap = float((x.mean(0) - y.mean(0)).norm())
        assert gap == pytest.approx(2 * g) if matched else gap > 2 * g


@pytest.mark.parametrize(("beta", "g"), POINTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_ratio_is_that_of_finite_differences(beta: float, g: float, seed: int) -> None:
    """(dg/dt) / (dbeta/dt) under dg/dt = -dL/dg and dnu/dt = -dL/dnu, whatever the points."""
    u, v = clouds(seed)
    nu, half = scalars(beta, g)

    def loss(log_beta: Tensor, gap: Tensor) -> float:
        return float(whole_loss(u, v, log_beta, gap))

    h = 1e-5
    dg = -(loss(nu, half + h) - loss(nu, half - h)) / (2 * h)
    dnu = -(loss(nu + h, half) - loss(nu - h, half)) / (2 * h)
    dbeta = beta * dnu  # beta = exp(nu)
    assert gap_to_temperature_ratio(beta, g) == pytest.approx(dg / dbeta, rel=1e-5)
    assert gap_to_temperature_ratio(10 * beta, g) == pytest.approx(gap_to_temperature_ratio(beta, g) / 10)


# -- the flow --------------------------------------------------------------------------------------


def test_mismatched_pairs_open_the_gap_at_first_and_ordered_ones_close_it() -> None:
    growth = {
        ordered: [b - a for a, b in (simulate(s, ordered=ordered, g=0.1, steps=1).gap for s in range(20))]
        for ordered in (True, False)
    }
    assert max(growth[True]) < 0
    assert sum(change > 0 for change in growth[False]) >= 18


def test_without_a_gap_there_is_nothing_to_grow() -> None:
    assert simulate(0, ordered=False, g=0.0, steps=3, every=1).gap == [0.0] * 4


def test_a_learned_temperature_keeps_the_gap_open_like_one_over_log_squared() -> None:
    learned, fixed = (
        simulate(0, ordered=True, learned=learned, steps=800, every=20) for learned in (True, False)
    )
    assert fixed.beta == pytest.approx([10.0] * len(fixed.beta))
    assert all(later > earlier for earlier, later in itertools.pairwise(learned.beta))
    assert fixed.gap[-1] < 0.02 < 0.1 < learned.gap[-1]
    late = [(step, gap) for step, gap in zip(learned.steps, learned.gap, strict=True) if step >= 100]
    steps, gaps = np.array(late).T
    assert np.corrcoef(1 / np.log(steps) ** 2, gaps)[0, 1] > 0.99
    logarithms, halves = np.log(steps), gaps[-1] / gaps[0]
    assert halves > 0.8 * (logarithms[0] / logarithms[-1]) ** 2, "no faster than 1 / log(t)^2"


def test_a_larger_beta_freezes_the_gap() -> None:
    """While beta grows by one, the gap moves the less the larger beta is already."""
    for beta in (5.0, 20.0):
        flow = simulate(1, ordered=True, beta=beta, g=0.3, rate=1e-4, steps=1)
        moved = (flow.gap[1] - flow.gap[0]) / 2 / (flow.beta[1] - flow.beta[0])
        assert moved == pytest.approx(gap_to_temperature_ratio(beta, 0.3), rel=1e-3)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_steps_are_gradient_descent_on_the_sphere(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state that the flow visits, seen through its own loss."""
    visited: list[list[Tensor]] = []

    def seen(*state: Tensor) -> Tensor:
        visited.append([tensor.detach().clone() for tensor in state])
        return gap_loss(*state)

    monkeypatch.setattr(gap_flow, "gap_loss", seen)
    simulate(3, ordered=ordered, n=6, d=4, g=0.1, steps=8, rate=0.02)
    assert len(visited) == 8
    u, v = visited[0][:2]
    margins = (u @ v.T).diagonal() - (u @ v.T).masked_fill(torch.eye(6, dtype=torch.bool), -2).amax(1)
    assert bool((margins > 0).all()) == ordered
    losses = []
    for state, after in itertools.pairwise(visited):
        moving = [tensor.requires_grad_() for tensor in state]
        loss = whole_loss(*moving)
        losses.append(float(loss.detach()))
        slopes = torch.autograd.grad(loss, moving)
        for at, slope, new in zip(state[:2], slopes[:2], after[:2], strict=True):
            tangent = slope - (slope * at).sum(1, keepdim=True) * at
            torch.testing.assert_close(new, functional.normalize(at - 0.02 * tangent, dim=1).detach())
        for at, slope, new in zip(state[2:], slopes[2:], after[2:], strict=True):
            torch.testing.assert_close(new, (at - 0.02 * slope).detach())
    assert losses == sorted(losses, reverse=True)


def test_what_is_recorded() -> None:
    flow = simulate(0, ordered=True, steps=25, every=10, beta=4.0, g=0.2)
    assert isinstance(flow, Flow)
    assert flow.steps == [0, 1, 10, 20]
    assert len(flow.gap) == len(flow.beta) == 4
    assert (flow.gap[0], flow.beta[0]) == (0.4, 4.0)
    assert flow == simulate(0, ordered=True, steps=25, every=10, beta=4.0, g=0.2)
    assert flow.gap != simulate(1, ordered=True, steps=25, every=10, beta=4.0, g=0.2).gap
