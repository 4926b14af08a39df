"""Noise that climbs a loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nearfar.errors import ArgumentError
from nearfar.objectives import ascend, info_nce


def test_every_row_goes_a_step_of_one_length_uphill() -> None:
    torch.manual_seed(0)
    start, towards = torch.randn(5, 3), torch.randn(3)
    scale = torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6])[:, None]  # the length of a gradient must not matter
    moved = ascend(start, lambda noise: (scale * noise * towards).sum(), steps=1, beta=0.5)
    torch.testing.assert_close(moved - start, 0.5 * (towards / towards.norm()).expand(5, 3))
    torch.testing.assert_close(
        ascend(start, lambda noise: (noise @ towards).sum(), 3, 0.5) - start, 3 * (moved - start)
    )


def test_a_contrastive_loss_rises_with_every_step_and_nothing_else_moves() -> None:
    torch.manual_seed(0)
    layer, start = nn.Linear(4, 4), torch.randn(6, 4)
    one, two = layer(torch.randn(8, 4)).detach(), torch.randn(8, 4)

    def loss(noise: torch.Tensor) -> torch.Tensor:
        return info_nce(one, layer(two), temperature=0.5, extra_keys=noise)

    climbed = [ascend(start, loss, steps, 0.1) for steps in (0, 1, 4)]
    assert torch.equal(climbed[0], start)
    heights = [float(loss(noise).detach()) for noise in climbed]
    assert heights[0] < heights[1] < heights[2]
    assert not any(noise.requires_grad for noise in climbed)
    assert all(p.grad is None for p in layer.parameters())
    with torch.no_grad():
        assert torch.equal(ascend(start, loss, 4, 0.1), climbed[2])


def test_a_row_without_slope_stays() -> None:
    start = torch.randn(2, 3)
    moved = ascend(start, lambda noise: noise[0].sum(), steps=2, beta=1.0)
    assert torch.equal(moved[1], start[1])
    assert not torch.equal(moved[0], start[0])
    with pytest.raises(ArgumentError, match="beta must be"):
        ascend(start, torch.sum, 1, -0.1)
