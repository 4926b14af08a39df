"""Sets that push each other away: the sum itself, what has no gradient, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.objectives import set_repulsion

SETS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
T = 0.3


def rows(seed: int = 0, n: int = 7) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(z: Tensor, sets: Tensor, t: float) -> Tensor:
    cosines = functional.normalize(z, dim=1) @ functional.normalize(z, dim=1).T
    terms = []
    for name in sets.unique():
        pairs = [cosines[i, j] for i in range(len(z)) for j in range(len(z)) if sets[i] == name != sets[j]]
        terms.append(torch.logsumexp(torch.stack(pairs) / t, 0))
    return torch.stack(terms).sum()


def test_it_is_the_sum_over_sets_of_log_sums_and_its_gradient_too() -> None:
    z, same = rows().requires_grad_(), rows().requires_grad_()
    loss, wanted = set_repulsion(z, SETS, temperature=T), written_out(same, SETS, T)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(z.grad, same.grad)
    assert torch.autograd.gradcheck(
        lambda x: set_repulsion(x, SETS, temperature=T), (rows(1).requires_grad_(),)
    )


def test_pairs_of_one_set_take_no_part() -> None:
    """Turning the members of a set against each other, with all other cosines as they are, changes nothing."""
    z = torch.zeros(4, 4, dtype=torch.float64)
    z[:2, 0], z[2:, 1] = 0.6, 0.6  # two sets, in planes of their own
    for turned in (1.0, -1.0):
        z[0, 2], z[1, 2] = 0.8, 0.8 * turned
        loss = set_repulsion(z, torch.tensor([0, 0, 1, 1]), temperature=T)
        torch.testing.assert_close(
            loss, torch.tensor(2 * torch.tensor(4.0).log().item(), dtype=torch.float64)
        )


def test_it_only_repels_and_knows_no_length_order_or_name() -> None:
    z = rows()
    loss = set_repulsion(z, SETS, temperature=T)
    order = torch.tensor([4, 2, 6, 0, 1, 3, 5])
    torch.testing.assert_close(set_repulsion(3 * z[order], 10 - SETS[order], temperature=T), loss)
    near, far = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    values = [float(set_repulsion(x, torch.tensor([0, 1]), temperature=T)) for x in (near, far)]
    assert values == pytest.approx([0.0, -2 / T])  # one pair: its cosine over t, once for each set


@pytest.mark.parametrize(
    ("z", "sets", "t", "message"),
    [
        (rows(), torch.zeros(7), T, "all 7 rows are of one set"),
        (rows(), SETS[:6], T, r"one set for each, got \[7, 5\] and \[6\]"),
        (rows(), SETS, 0.0, "temperature"),
        (torch.zeros(7, 5), SETS, T, "z"),
    ],
)
def test_what_is_refused(z: Tensor, sets: Tensor, t: float, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        set_repulsion(z, sets, temperature=t)
