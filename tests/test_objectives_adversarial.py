"""Hinge losses of both sides, and entropies of assignments."""

from __future__ import annotations

import math

import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.objectives import assignment_entropy, discriminator_hinge, generator_hinge


def test_hinges_on_fixed_numbers() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(discriminator_hinge(real, fake)) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert float(generator_hinge(fake)) == pytest.approx(2 / 3)


def test_beyond_the_margin_the_discriminator_rests_and_the_generator_does_not() -> None:
    real, fake = torch.tensor([1.5], requires_grad=True), torch.tensor([-1.5], requires_grad=True)
    discriminator_hinge(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert float(real.grad) == float(fake.grad) == 0
    fake.grad = None
    generator_hinge(fake).backward()
    assert float(fake.grad) == -1


@pytest.mark.parametrize(
    ("logits", "rows", "together"),
    [
        (torch.zeros(6, 4), math.log(4), math.log(4)),  # nothing is known
        (100 * torch.eye(4).repeat(2, 1), 0.0, math.log(4)),  # sure and even: the best
        (100 * torch.eye(4)[[0] * 6], 0.0, 0.0),  # all in one cluster
    ],
)
def test_entropy_of_rows_and_of_their_mean(logits: torch.Tensor, rows: float, together: float) -> None:
    assert float(assignment_entropy(logits, 1.0, 0.0)) == pytest.approx(rows, abs=1e-5)
    assert float(assignment_entropy(logits, 0.0, 1.0)) == pytest.approx(-together, abs=1e-5)
    assert float(assignment_entropy(logits, 0.2, 0.3)) == pytest.approx(0.2 * rows - 0.3 * together, abs=1e-5)


def test_sharp_and_balance_pull_as_they_say() -> None:
    torch.manual_seed(0)
    logits = torch.randn(32, 5) + torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0])
    for sharp, balance in ((1.0, 0.0), (0.0, 1.0)):
        moved = logits.clone().requires_grad_()
        optimiser = torch.optim.Adam([moved], 0.1)
        for _ in range(60):
            optimiser.zero_grad()
            assignment_entropy(moved, sharp, balance).backward()
            optimiser.step()
        before, after = logits.softmax(1), moved.detach().softmax(1)
        if sharp:
            assert after.amax(1).mean() > before.amax(1).mean() + 0.1
        else:
            assert after.mean(0).max() < before.mean(0).max() - 0.1


def test_a_cluster_that_nothing_takes_has_a_finite_gradient() -> None:
    logits = torch.tensor([[500.0, -500.0, 0.0], [499.0, -500.0, 0.0]], requires_grad=True)
    assignment_entropy(logits, 0.1, 0.1).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    with pytest.raises(ArgumentError, match="logits of rows over clusters"):
        assignment_entropy(torch.zeros(3), 1.0, 1.0)
