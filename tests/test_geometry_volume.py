"""Volumes of unit vectors: identities, what the released formula gives, slopes at the edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.geometry import gram_volume, negative_pair_volume, negative_volumes
from nearfar.search import Index, rank_by_volume

RANDOM = np.random.default_rng(0)


def sets(n: int, k: int, d: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(n, k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(*modalities: Tensor) -> Tensor:
    """Root of |det G| over all pairs of anchor i and item j, entry by entry: [B, M]."""
    anchor, *others = (functional.normalize(x, dim=-1) for x in modalities)
    volumes = torch.empty(len(anchor), len(others[0]), dtype=anchor.dtype)
    for i in range(len(anchor)):
        for j in range(len(others[0])):
            rows = torch.stack([anchor[i], *(other[j] for other in others)])
            volumes[i, j] = torch.linalg.det(rows @ rows.T).abs().sqrt()
    return volumes


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_volumes_of_all_pairs_are_roots_of_determinants(k: int) -> None:
    vectors = sets(6, k)
    wanted = written_out(*vectors.unbind(1))
    torch.testing.assert_close(-negative_volumes(vectors[:, 0], vectors[:, 1:]), wanted, atol=1e-7, rtol=0)
    torch.testing.assert_close(gram_volume(vectors), wanted.diagonal(), atol=1e-7, rtol=0)
    single = -negative_volumes(vectors[:, 0].float(), vectors[:, 1:].float())
    torch.testing.assert_close(single.double(), wanted, atol=1e-4, rtol=0)


def test_two_vectors_span_the_sine_of_their_angle() -> None:
    a, b = sets(5, 2).unbind(1)
    cosines = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
    torch.testing.assert_close(negative_pair_volume(a, b).square(), 1 - cosines.square())
    torch.testing.assert_close(negative_pair_volume(a, b), negative_volumes(a, b[:, None]), atol=1e-7, rtol=0)


def test_places_and_turns_and_lengths_do_not_matter_and_neither_do_signs() -> None:
    vectors = sets(4, 4)
    turn = torch.linalg.qr(sets(1, 9, seed=3)[0])[0]
    for same in (
        vectors[:, [2, 0, 3, 1]],
        vectors @ turn,
        5 * vectors,
        vectors * torch.tensor([1, -1, 1, 1.0])[:, None],
    ):
        torch.testing.assert_close(gram_volume(same), gram_volume(vectors), atol=1e-8, rtol=0)


def test_what_lies_together_spans_nothing_and_what_is_at_right_angles_spans_one() -> None:
    one = sets(3, 1)
    assert float(gram_volume(one.expand(-1, 3, -1)).max()) < 1e-4
    assert float(gram_volume(torch.cat([one, -one], 1)).max()) < 1e-4  # signs are not seen
    assert float(gram_volume(torch.eye(5, dtype=torch.float64)[:4][None])) == pytest.approx(1)


def test_slopes_are_exact_and_stay_finite_where_the_volume_is_none() -> None:
    vectors = sets(3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: negative_volumes(x[:, 0], x[:, 1:]), (vectors,))
    for dtype in (torch.float32, torch.float64):
        flat = sets(2, 1).to(dtype).expand(-1, 3, -1).clone().requires_grad_()
        gram_volume(flat).sum().backward()
        (-negative_volumes(flat[:, 0], flat[:, 1:])).sum().backward()
        assert flat.grad is not None
        assert bool(torch.isfinite(flat.grad).all())


def test_a_vector_without_direction_is_refused() -> None:
    with pytest.raises(ArgumentError, match="all zeros"):
        gram_volume(torch.zeros(2, 3, 4))


# -- search ----------------------------------------------------------------------------------------


def rows(n: int, seed: int, d: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("n", [3, 40, 500])
def test_the_index_looks_in_both_directions(n: int) -> None:
    pool, queries = rows(n, 1), rows(9, 2)
    queries[0] = -3 * pool[n // 2]
    scores, ids = Index(pool, "gram").search(queries, 5)
    wanted = negative_pair_volume(torch.tensor(queries), torch.tensor(pool)).numpy()
    k = min(5, n)
    np.testing.assert_array_equal(ids, np.argsort(-wanted, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(scores, np.take_along_axis(wanted, ids, 1), atol=1.1e-3)
    assert ids[0, 0] == n // 2
    with pytest.raises(ArgumentError, match="approximate"):
        Index(pool, "gram", approximate=True)


def test_items_are_ranked_by_the_volume_with_all_queries() -> None:
    queries, items = [rows(4, 1), rows(4, 2)], [rows(30, 3), rows(30, 4), rows(30, 5)]
    scores, ids = rank_by_volume(queries, items, 7)
    for q in range(4):
        stacked = np.stack(
            [np.stack([queries[0][q], queries[1][q], *(x[i] for x in items)]) for i in range(30)]
        )
        volumes = gram_volume(torch.from_numpy(stacked)).numpy()
        np.testing.assert_array_equal(ids[q], np.argsort(volumes, kind="stable")[:7])
        np.testing.assert_allclose(scores[q], -volumes[ids[q]], atol=1e-6)
    one = rank_by_volume(queries[:1], items[:1], 7)
    np.testing.assert_array_equal(one[1], Index(items[0], "gram").search(queries[0], 7)[1])


@pytest.mark.parametrize(
    ("queries", "items", "k", "message"),
    [
        ([], [rows(3, 0)], 1, "queries must be one matrix"),
        ([rows(2, 0)], [rows(3, 0), rows(4, 0)], 1, "items must be one matrix"),
        ([rows(2, 0, 5)], [rows(3, 0)], 1, "queries are 5 wide, items 6"),
        ([rows(2, 0)], [rows(3, 0)], 0, "k must be at least 1"),
    ],
)
def test_what_ranking_refuses(queries: list, items: list, k: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        rank_by_volume(queries, items, k)
