"""The sigmoid loss of pairs, against the formula and against itself in other forms."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.errors import ArgumentError
from nearfar.objectives import Pairing, binary_nce
from nearfar.ops import pair_sums

LABELS = torch.tensor([0, 1, 0, 2, 1, 2, 0])
IDS = torch.tensor([0, 0, 1, 1, 1, 2, 3])


def rows(n: int = 7, d: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(q: Tensor, k: Tensor, near: Tensor, counts: Tensor, tau: float, bias: float) -> float:
    logits = normalize(q) @ normalize(k).T / tau + bias
    total = 0.0
    for i in range(len(q)):
        for j in range(len(k)):
            sign = 1.0 if near[i, j] else -1.0
            if counts[i, j]:
                total += math.log1p(math.exp(-sign * float(logits[i, j])))
    return total / len(q)


EYE = torch.eye(7, dtype=torch.bool)
SAME = LABELS[:, None] == LABELS
FORMS = {
    "diagonal": (Pairing.diagonal(), EYE, torch.ones(7, 7, dtype=torch.bool)),
    "same": (Pairing.same(LABELS), SAME & ~EYE, ~EYE),
    "same keys": (Pairing.same(LABELS, LABELS), SAME, torch.ones(7, 7, dtype=torch.bool)),
    "ignoring": (Pairing.diagonal().ignoring(IDS), EYE, EYE | (IDS[:, None] != IDS)),
    "index": (Pairing.index(LABELS), LABELS[:, None] == torch.arange(7), torch.ones(7, 7, dtype=torch.bool)),
    "mask": (Pairing.diagonal().ignoring_mask(SAME & ~EYE), EYE, EYE | ~SAME),
    "no others": (Pairing.diagonal(others="ignored"), EYE, EYE),
    "none": (Pairing.none(), torch.zeros_like(EYE), torch.ones(7, 7, dtype=torch.bool)),
}


@pytest.mark.parametrize("tile", [3, 1024])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_the_loops(form: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_sums, "TILE", tile)
    pairing, near, counts = FORMS[form]
    q, k = rows(), rows(seed=1)
    loss = binary_nce(q, k, pairing, temperature=0.3, bias=-1.5)
    assert float(loss) == pytest.approx(by_loops(q, k, near, counts, 0.3, -1.5), rel=1e-9)
    total = binary_nce(q, k, pairing, temperature=0.3, bias=-1.5, reduction="sum")
    assert float(total) == pytest.approx(7 * float(loss), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_rows_temperature_and_bias_are_exact(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_sums, "TILE", 3)
    tau, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, -2.0))
    q, k = rows().requires_grad_(), rows(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, t, b: binary_nce(q, k, FORMS[form][0], temperature=t, bias=b), (q, k, tau, bias)
    )


def test_a_set_against_itself_gets_the_gradient_of_both_sides() -> None:
    z = rows().requires_grad_()
    (itself,) = torch.autograd.grad(binary_nce(z, z, Pairing.same(LABELS), temperature=0.5), z)
    q, k = z.detach().clone().requires_grad_(), z.detach().clone().requires_grad_()
    sides = torch.autograd.grad(binary_nce(q, k, Pairing.same(LABELS), temperature=0.5), (q, k))
    torch.testing.assert_close(itself, sides[0] + sides[1])


def test_a_pair_is_a_decision_of_its_own() -> None:
    """Unlike a softmax: leaving a far key out changes nothing of the other pairs."""
    q, k = rows(), rows(8, seed=1)
    gradients = []
    for n in (7, 8):
        z = q.clone().requires_grad_()
        labels = torch.arange(8)[:n]
        loss = binary_nce(z, k[:n], Pairing.same(torch.arange(7), labels), temperature=1.0, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        gradients.append((float(loss.detach()), gradient))
    alone = q.clone().requires_grad_()
    more = torch.nn.functional.softplus(normalize(alone) @ normalize(k[7:]).T).sum()
    torch.testing.assert_close(gradients[1][1], gradients[0][1] + torch.autograd.grad(more, alone)[0])
    assert gradients[1][0] == pytest.approx(gradients[0][0] + float(more.detach()))


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    q = torch.eye(3)
    confident = binary_nce(q, q.clone(), temperature=0.001, bias=-500.0)
    wrong = binary_nce(q, q.clone().roll(1, 0), temperature=0.001, bias=-500.0)
    assert float(confident) == 0.0
    assert float(wrong) == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 1.0, "score": "cos"}, "score"),
        ({"temperature": 1.0, "pairing": Pairing.diagonal().hardest(2)}, "hardest"),
        ({"temperature": 1.0, "pairing": Pairing.same(LABELS[:3])}, "labels"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        binary_nce(rows(), rows(seed=1), **arguments)  # type: ignore[arg-type]


def test_a_row_that_is_not_finite_is_named() -> None:
    q = rows()
    q[2, 1] = torch.nan
    with pytest.raises(ArgumentError, match="queries: row 3"):
        binary_nce(q, rows(seed=1), temperature=1.0)
