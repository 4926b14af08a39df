"""Scores: what they equal, what they refuse, in which precision."""

import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES, cosine, dot, negative_squared_distance, pair_distance


def rows(n: int, d: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_scores_equal_their_definitions_pair_by_pair() -> None:
    a, b = rows(4), rows(3, seed=1)
    for i in range(4):
        for j in range(3):
            assert dot(a, b)[i, j] == pytest.approx(float(a[i] @ b[j]))
            assert cosine(a, b)[i, j] == pytest.approx(float(torch.cosine_similarity(a[i], b[j], dim=0)))
            assert negative_squared_distance(a, b)[i, j] == pytest.approx(
                -float((a[i] - b[j]).square().sum())
            )
            assert pair_distance(a, b)[i, j] == pytest.approx(float((a[i] - b[j]).norm()))
            assert pair_distance(a, b, 1)[i, j] == pytest.approx(float((a[i] - b[j]).abs().sum()))
            assert pair_distance(a, b, squared=True)[i, j] == pytest.approx(float((a[i] - b[j]).norm() ** 2))


def test_on_unit_rows_distance_and_cosine_say_the_same() -> None:
    a, b = (
        torch.nn.functional.normalize(rows(6), dim=1),
        torch.nn.functional.normalize(rows(7, seed=1), dim=1),
    )
    torch.testing.assert_close(negative_squared_distance(a, b), 2 * cosine(a, b) - 2)


def test_a_row_of_zeros_or_nan_is_named() -> None:
    b = rows(3)
    b[1] = 0
    with pytest.raises(ArgumentError, match=r"b: row 2 is all zeros"):
        cosine(rows(4), b)
    b[1, 0] = torch.nan
    with pytest.raises(ArgumentError, match=r"a: row 2 holds NaN"):
        cosine(b, rows(4))


def test_half_precision_is_computed_in_float32_also_under_autocast() -> None:
    a, b = rows(8, 64, dtype=torch.float32), rows(9, 64, 1, torch.float32)
    for score in SCORES.values():
        full = score(a.bfloat16().float(), b.bfloat16().float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = score(a.bfloat16(), b.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full)
        assert score(a.double(), b.double()).dtype == torch.float64


def test_far_from_the_origin_close_points_keep_their_distance() -> None:
    a = rows(5, 8, dtype=torch.float32)
    moved = negative_squared_distance(a + 100, a.flip(0) + 100)
    torch.testing.assert_close(moved, negative_squared_distance(a, a.flip(0)), atol=1e-3, rtol=1e-3)
    assert float(moved.max()) <= 0


def test_gradients_are_exact_and_finite_where_rows_agree() -> None:
    a, b = rows(3).requires_grad_(), rows(4, seed=1).requires_grad_()
    for score in [*SCORES.values(), pair_distance]:
        assert torch.autograd.gradcheck(score, (a, b))
    pair_distance(a, a.detach().clone()).sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_leading_dimensions_are_batches() -> None:
    a, b = rows(12).reshape(3, 4, 5), rows(6, seed=1).reshape(3, 2, 5)
    for score in SCORES.values():
        for i in range(3):
            torch.testing.assert_close(score(a, b)[i], score(a[i], b[i]))


def test_an_unknown_distance_is_refused() -> None:
    with pytest.raises(ArgumentError, match="p=3"):
        pair_distance(rows(2), rows(2), 3)
    with pytest.raises(ArgumentError, match="squared"):
        pair_distance(rows(2), rows(2), 1, squared=True)
