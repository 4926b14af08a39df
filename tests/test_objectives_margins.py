"""Margin losses on numbers worked out by hand."""

import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.objectives import band_hinge, pair_margin, triplet_margin


def test_pair_margin_by_hand() -> None:
    distance = torch.tensor([0.5, 0.1, 0.4, 2.0])
    same = torch.tensor([True, True, False, False])
    assert float(pair_margin(distance, same, 1.0)) == pytest.approx((0.25 + 0.01 + 0.36 + 0) / 4)
    linear = pair_margin(distance, same, m_neg=1.0, m_pos=0.2, power=1)
    assert float(linear) == pytest.approx((0.3 + 0 + 0.6 + 0) / 4)


def test_pairs_beyond_their_margin_receive_no_gradient() -> None:
    distance = torch.tensor([0.1, 0.5, 0.4, 2.0], requires_grad=True)
    pair_margin(distance, torch.tensor([True, True, False, False]), m_neg=1.0, m_pos=0.2).backward()
    assert distance.grad is not None
    assert torch.sign(distance.grad).tolist() == [0, 1, -1, 0]


def test_triplet_margin_by_hand() -> None:
    near = torch.tensor([0.8, 0.3])
    far = torch.tensor([[0.75, 0.9, -1.0], [0.2, -torch.inf, 0.1]])
    # Costs at margin 0.2: [0.15, 0.3, 0] and [0.1, no key, 0].
    assert float(triplet_margin(near, far, 0.2)) == pytest.approx(0.55 / 5)
    assert float(triplet_margin(near, far, 0.2, "hardest")) == pytest.approx((0.3 + 0.1) / 2)
    assert float(triplet_margin(near, far, 0.2, "semi_hard")) == pytest.approx((0.15 + 0.1) / 2)
    assert float(triplet_margin(near, far[:, 0], 0.2)) == pytest.approx((0.15 + 0.1) / 2)


def test_an_anchor_without_a_semi_hard_key_costs_nothing_and_its_gradient_is_finite() -> None:
    near, far = torch.tensor([0.1], requires_grad=True), torch.tensor([[0.5, 0.6]], requires_grad=True)
    loss = triplet_margin(near, far, 0.2, "semi_hard")
    loss.backward()
    assert loss.item() == 0
    assert near.grad is not None
    assert far.grad is not None
    assert near.grad.tolist() == [0]
    assert far.grad.tolist() == [[0, 0]]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="boolean"):
        pair_margin(torch.ones(2), torch.ones(2), 1.0)
    with pytest.raises(ArgumentError, match="power"):
        pair_margin(torch.ones(2), torch.ones(2) > 0, 1.0, power=3)
    with pytest.raises(ArgumentError, match="far"):
        triplet_margin(torch.ones(2), torch.ones(3), 0.1)
    with pytest.raises(ArgumentError, match="mining"):
        triplet_margin(torch.ones(2), torch.ones(2), 0.1, "easy")


def test_band_hinge_by_hand_and_nothing_within_the_band() -> None:
    x = torch.tensor([-1.0, -0.3, -0.2, 0.0, 0.5], requires_grad=True)
    assert float(band_hinge(x.detach(), -0.3, 0.0)) == pytest.approx((0.7 + 0 + 0 + 0 + 0.5) / 5)
    assert float(band_hinge(x.detach(), -0.3, 0.0, power=2)) == pytest.approx((0.49 + 0.25) / 5)
    band_hinge(x, -0.3, 0.0).backward()
    assert x.grad is not None
    assert torch.sign(x.grad).tolist() == [-1, 0, 0, 0, 1]
    assert float(band_hinge(torch.linspace(-0.3, 0.0, 7), -0.3, 0.0)) == 0
    with pytest.raises(ArgumentError, match="low <= high"):
        band_hinge(x, 0.1, 0.0)
