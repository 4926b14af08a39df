"""Mutual information from correlation: the formula, what it does not see, and where it ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.objectives import corr_mi


def samples(n: int = 40, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(rows, n, dtype=torch.float64)
    return x, 0.6 * x + torch.randn(rows, n, dtype=torch.float64)


def test_it_is_the_formula() -> None:
    x, y = samples()
    for row, found in enumerate(corr_mi(x, y).tolist()):
        rho = np.corrcoef(x[row], y[row])[0, 1]
        assert found == pytest.approx(-0.5 * math.log(1 - rho**2), rel=1e-9)


def test_scale_shift_sign_and_order_of_the_variables_do_not_matter() -> None:
    x, y = samples()
    expected = corr_mi(x, y)
    for one, two in ((y, x), (3 * x - 7, y), (x, -y), (x.flip(-1), y.flip(-1))):
        torch.testing.assert_close(corr_mi(one, two), expected)
    assert not torch.allclose(corr_mi(x.exp(), y), expected)


def test_samples_that_do_not_count_are_as_if_they_were_not_there() -> None:
    x, y = samples()
    mask = torch.arange(40).expand(3, -1) < torch.tensor([[40], [25], [7]])
    found = corr_mi(x, y, mask)
    for row, count in enumerate((40, 25, 7)):
        torch.testing.assert_close(found[row], corr_mi(x[row, :count], y[row, :count]))


def test_equal_samples_have_a_most_and_no_gradient() -> None:
    x, _ = samples()
    x.requires_grad_()
    found = corr_mi(x, x, eps=1e-4)
    torch.testing.assert_close(found, torch.full_like(found, -0.5 * math.log(1e-4)))
    found.sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_cannot_correlate_have_none(dtype: torch.dtype) -> None:
    x = torch.tensor([[2.0, 2.0, 2.0], [1.0, 5.0, 9.0], [1.0, 2.0, 3.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [3.0, 1.0, 2.0]], dtype=dtype)
    mask = torch.tensor([[True] * 3, [False] * 3, [True, False, False]])
    found = corr_mi(x, y, mask)
    assert found.tolist() == [0, 0, 0]
    found.sum().backward()
    assert bool(x.grad.isfinite().all())


def test_samples_must_be_in_pairs() -> None:
    with pytest.raises(ArgumentError, match="in pairs"):
        corr_mi(torch.ones(2, 3), torch.ones(2, 4))
