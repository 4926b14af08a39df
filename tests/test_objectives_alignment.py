"""Alignment, uniformity and its optimum."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from nearfar.errors import ArgumentError
from nearfar.objectives import alignment, uniform_optimum, uniformity, uniformity_to_queue
from nearfar.ops import row_chunks


def rows(n: int, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def test_alignment_is_the_mean_distance_of_unit_rows() -> None:
    x, y = rows(7), rows(7, seed=1)
    for alpha in (0.5, 1, 2, 3):
        expected = sum(float((unit(x)[i] - unit(y)[i]).norm()) ** alpha for i in range(7)) / 7
        assert float(alignment(x, y, alpha)) == pytest.approx(expected)
    assert float(alignment(x, 3 * x)) == pytest.approx(0, abs=1e-15)
    assert float(alignment(x, -x)) == pytest.approx(4)


def test_alignment_has_finite_gradients_at_zero_distance_and_exact_ones_elsewhere() -> None:
    x = rows(4).requires_grad_()
    for alpha in (0.5, 1, 2, 3):
        (gradient,) = torch.autograd.grad(alignment(x, x.detach(), alpha), x)
        assert torch.isfinite(gradient).all()
        assert torch.autograd.gradcheck(
            lambda a, b, p=alpha: alignment(a, b, p), (x, rows(4, seed=1).requires_grad_())
        )


@pytest.mark.parametrize("branch", ["textbook", "chunked"])
def test_uniformity_counts_distinct_pairs_once(branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if branch == "chunked":
        monkeypatch.setattr(row_chunks, "TEXTBOOK_CELLS", 0)
        monkeypatch.setattr(row_chunks, "CHUNK_CELLS", 12)
    x, queue = rows(6).requires_grad_(), rows(9, seed=1)
    u, v = unit(x.detach()), unit(queue)
    within = [math.exp(-3 * float((u[i] - u[j]).square().sum())) for i in range(6) for j in range(i)]
    across = [math.exp(-3 * float((u[i] - v[j]).square().sum())) for i in range(6) for j in range(9)]
    assert uniformity(x, 3).item() == pytest.approx(math.log(np.mean(within)))
    assert uniformity_to_queue(x, queue, 3).item() == pytest.approx(math.log(np.mean(within + across)))
    apart = uniformity_to_queue(x, queue, 3, within_batch=False)
    assert apart.item() == pytest.approx(math.log(np.mean(across)))
    assert torch.autograd.gradcheck(lambda a: uniformity(a, 3) + uniformity_to_queue(a, queue, 3), (x,))


def test_uniformity_of_equal_rows_is_zero_whatever_their_length() -> None:
    x = rows(1).expand(5, 5) * torch.arange(1, 6)[:, None]
    assert float(uniformity(x)) == pytest.approx(0)


def test_uniform_points_reach_the_optimum() -> None:
    x = rows(5000, 128).float()
    assert uniform_optimum(128, 2) == pytest.approx(-3.94, abs=0.01)
    assert float(uniformity(x, 2)) == pytest.approx(uniform_optimum(128, 2), abs=0.01)


def test_the_optimum_equals_the_bessel_form_and_survives_where_it_does_not() -> None:
    for d, t in [(1, 0.5), (2, 2.0), (3, 1.0), (128, 2.0), (768, 3.0), (64, 50.0)]:
        expected = -2 * t + math.log(special.hyp0f1(d / 2, t**2))
        assert uniform_optimum(d, t) == pytest.approx(expected, rel=1e-9)
    # On the sphere in three dimensions the mean of exp(2t cos) is sinh(2t) / 2t.
    t = 2000.0
    assert uniform_optimum(3, t) == pytest.approx(-math.log(4 * t), rel=1e-9)
    assert uniform_optimum(100_000, 2) == pytest.approx(-4, abs=1e-3)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="row-aligned"):
        alignment(rows(3), rows(4))
    with pytest.raises(ArgumentError, match="alpha"):
        alignment(rows(3), rows(3), 0)
    with pytest.raises(ArgumentError, match="at least 2 rows"):
        uniformity(rows(1))
    with pytest.raises(ArgumentError, match="t above 0"):
        uniformity(rows(3), 0)
    with pytest.raises(ArgumentError, match="x: row 2 is all zeros"):
        uniformity(torch.tensor([[1.0, 0], [0, 0]]))
    with pytest.raises(ArgumentError, match="one width"):
        uniformity_to_queue(rows(3), rows(3, 4))
    with pytest.raises(ArgumentError, match="uniform_optimum"):
        uniform_optimum(0, 1)
