"""Weights that are held in place: a sum over every entry, with a gradient to what moves alone."""

from __future__ import annotations

import pytest
import torch

from nearfar.objectives import weight_distance


def test_it_is_a_sum_over_all_entries_of_all_tensors() -> None:
    weights = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0])]
    anchors = [torch.tensor([[0.0, 2.0], [1.0, 4.0]]), torch.tensor([2.0])]
    assert float(weight_distance(weights, anchors)) == 1 + 4 + 9
    assert float(weight_distance(weights, weights)) == 0


def test_the_gradient_pulls_back_and_leaves_the_anchors_alone() -> None:
    weight, anchor = (torch.tensor(values, requires_grad=True) for values in ([3.0, -1.0], [1.0, -1.0]))
    weight_distance([weight], [anchor]).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, 0.0]
    assert anchor.grad is None


def test_networks_of_different_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        weight_distance([torch.ones(2), torch.ones(2)], [torch.ones(2)])
