"""Contrast between the tokens of a text: the hinge, what it counts, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.objectives import token_contrast


def drawn(lengths: tuple[int, ...] = (4, 2, 5), d: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    states = torch.randn(len(lengths), max(lengths), d, dtype=torch.float64) + 0.8
    return states, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.5])
def test_it_is_the_formula_pair_by_pair(margin: float) -> None:
    states, mask = drawn()
    costs = []
    for text, valid in zip(states, mask, strict=True):
        tokens = text[valid]
        for i in range(len(tokens)):
            for j in range(len(tokens)):
                if i != j:
                    own = functional.cosine_similarity(tokens[i], tokens[i], dim=0)
                    other = functional.cosine_similarity(tokens[i], tokens[j], dim=0)
                    costs.append(max(0.0, float(margin - own + other)))
    assert float(token_contrast(states, mask, margin)) == pytest.approx(sum(costs) / len(costs), abs=1e-9)


def test_long_texts_weigh_more_than_in_a_mean_of_means() -> None:
    states, mask = drawn()
    each = [float(token_contrast(states[i : i + 1], mask[i : i + 1], 0.5)) for i in range(3)]
    assert float(token_contrast(states, mask, 0.5)) != pytest.approx(sum(each) / 3, abs=1e-3)
    pairs = [4 * 3, 2 * 1, 5 * 4]
    pooled = sum(n * cost for n, cost in zip(pairs, each, strict=True)) / sum(pairs)
    assert float(token_contrast(states, mask, 0.5)) == pytest.approx(pooled)


def test_limits() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    equal = torch.randn(2, 1, 4).expand(2, 3, 4)
    assert float(token_contrast(equal, mask, 0.5)) == pytest.approx(0.5, abs=1e-6)
    apart = torch.eye(3).expand(2, 3, 3)
    assert float(token_contrast(apart, mask, 1.0)) == 0.0
    assert float(token_contrast(apart, mask, 1.25)) == pytest.approx(0.25), (
        "above 1 it asks for opposite ones"
    )
    assert float(token_contrast(apart[:, :1], mask[:, :1], 0.5)) == 0.0, "one token has nobody to be far from"


def test_a_margin_of_nothing_costs_exactly_nothing_and_pulls_at_nothing() -> None:
    """Cosines of equal float32 rows can come out above 1."""
    torch.manual_seed(1)
    states = torch.randn(1, 1, 300).repeat(1, 50, 1).requires_grad_()
    loss = token_contrast(states, torch.ones(1, 50, dtype=torch.bool), 0.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(states.grad.abs().max()) == 0.0


def test_only_near_pairs_are_pushed_and_the_length_of_a_state_is_nothing_to_it() -> None:
    states, mask = drawn()
    states = states.requires_grad_()
    token_contrast(states, mask, 0.5).backward()
    gradient = states.grad
    assert float((gradient * states.detach()).sum(-1).abs().max()) < 1e-9
    assert float(gradient[~mask].abs().max()) == 0.0
    scaled = states.detach() * torch.rand(3, 5, 1).add(0.1)
    torch.testing.assert_close(token_contrast(scaled, mask, 0.5), token_contrast(states.detach(), mask, 0.5))


def test_padding_may_hold_anything() -> None:
    states, mask = drawn()
    expected = token_contrast(states, mask, 0.5)
    for filling in (1e6, 0.0):
        torch.testing.assert_close(
            token_contrast(states.masked_fill(~mask[..., None], filling), mask, 0.5), expected
        )


def test_wrong_input_is_named() -> None:
    states, mask = drawn()
    with pytest.raises(ArgumentError, match="margin must be at least 0"):
        token_contrast(states, mask, -0.1)
    with pytest.raises(ArgumentError, match=r"mask boolean \[B, L\]"):
        token_contrast(states, mask.float(), 0.5)
    with pytest.raises(ArgumentError, match=r"states must be \[B, L, d\]"):
        token_contrast(states[0], mask, 0.5)
