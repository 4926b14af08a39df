"""A walk to the root meets what entails its points, the nearest first, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.geometry import entails, lorentz_exp0, lorentz_inner
from nearfar.measures.hyperbolic import hyperbolic_distances, lifted_pair, radii
from nearfar.measures.retrieval import retrieval_metrics
from nearfar.search import Index, towards_root
from nearfar.search.index import searchable

E = torch.eye(3, dtype=torch.float64)
PICTURE = lorentz_exp0(4.0 * E[:1])


def on_axis(*lengths: float) -> torch.Tensor:
    return torch.cat([lorentz_exp0(length * E[:1]) for length in lengths])


def test_a_chain_on_one_ray_is_met_from_the_specific_to_the_general() -> None:
    keys = on_axis(1.0, 3.0, 2.0, 5.0)
    # 5.0 lies further out than the picture: it entails nothing on the way.
    assert towards_root(PICTURE, keys) == [[1, 2, 0]]


def test_a_nearer_text_that_does_not_entail_is_passed_by() -> None:
    beside = lorentz_exp0(torch.tensor([[4.0, 0.02, 0.0]], dtype=torch.float64))
    keys = torch.cat([beside, on_axis(2.0)])
    assert float(lorentz_inner(PICTURE, keys)[0, 0]) > float(lorentz_inner(PICTURE, keys)[0, 1])
    assert not bool(entails(beside, PICTURE))
    assert towards_root(PICTURE, keys) == [[1]]


def test_where_nothing_entails_only_the_root_is_left() -> None:
    opposite = lorentz_exp0(-2.0 * E[:1])
    assert towards_root(PICTURE, opposite) == [[]]


def test_equal_texts_are_met_once_by_their_first_row_and_queries_do_not_mix() -> None:
    keys = torch.cat([on_axis(2.0, 2.0, 1.0), lorentz_exp0(1.5 * E[1:2])])
    both = torch.cat([PICTURE, lorentz_exp0(3.0 * E[1:2])])
    assert towards_root(both, keys) == [[0, 2], [3]]
    assert towards_root(both.numpy().astype(np.float32), keys.numpy().astype(np.float32)) == [[0, 2], [3]]


def test_chunks_of_keys_give_the_answer_of_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.Generator().manual_seed(0)
    u = torch.randn(40, 3, generator=drawn, dtype=torch.float64)
    keys, queries = lorentz_exp0(0.4 * u), lorentz_exp0(2 * u[:5])
    whole = towards_root(queries, keys)
    assert any(len(walk) > 1 for walk in whole)
    monkeypatch.setattr("nearfar.ops.row_chunks.CHUNK_CELLS", 400)
    assert towards_root(queries, keys) == whole


def test_wrong_walks_are_refused() -> None:
    with pytest.raises(ArgumentError, match="one width"):
        towards_root(PICTURE, PICTURE[:, :2])
    with pytest.raises(ArgumentError, match="steps"):
        towards_root(PICTURE, PICTURE, steps=1)
    with pytest.raises(ArgumentError, match="keys: row 1"):
        towards_root(PICTURE, PICTURE * torch.nan)


# -- the same geometry in the index and the measures -------------------------------------------------


def points(n: int, seed: int, spread: float = 1.5) -> np.ndarray:
    drawn = torch.Generator().manual_seed(seed)
    return lorentz_exp0(spread * torch.randn(n, 5, generator=drawn)).numpy()


def test_the_index_tells_close_points_far_from_the_root_apart() -> None:
    far = lorentz_exp0(7.0 * torch.nn.functional.normalize(torch.randn(50, 5), dim=1)).numpy()
    twins = far * np.float32(1 + 1e-3)
    scores, ids = Index(np.concatenate([far, twins]), "lorentz").search(far, 2)
    assert ids[:, 0].tolist() == list(range(50))
    assert ids[:, 1].tolist() == list(range(50, 100))
    assert (scores[:, 0] == 0).all(), "equal points are at distance 0"
    np.testing.assert_allclose(scores[:, 1], -1e-3, rtol=0.05)


def test_rank_by_distance_is_not_rank_by_cosine_nor_by_inner_product() -> None:
    keys, queries = points(200, 0), points(30, 1)
    hyperbolic = Index(keys, "lorentz").search(queries, 5)[1]
    for other in ("cosine", "dot", "euclidean"):
        assert (Index(keys, other).search(queries, 5)[1] != hyperbolic).any()


def test_the_first_candidates_are_the_answer_so_that_no_search_has_to_read_all_rows() -> None:
    index, queries = Index(points(2000, 6), "lorentz"), points(20, 7)
    bounds, found = index._candidates(searchable(queries, "lorentz", "queries"), 5)
    scores, ids = index.search(queries, 5)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_allclose(index._score(bounds), scores[:, -1], rtol=1e-3)


def test_an_index_of_points_names_widths_as_the_user_knows_them_and_refuses_graphs() -> None:
    index = Index(points(10, 0), "lorentz")
    with pytest.raises(ArgumentError, match="4 wide, the index holds 5"):
        index.search(points(2, 0)[:, :4], 1)
    with pytest.raises(ArgumentError, match="approximate"):
        Index(points(10, 0), "lorentz", approximate=True)
    with pytest.raises(ArgumentError, match="row 2"):
        Index(np.float32([[1, 0], [3e38, 3e38]]), "lorentz")


def test_measures_rank_as_the_index_does() -> None:
    keys, queries = points(60, 2), points(60, 3)
    found = retrieval_metrics(queries, keys, geometry="lorentz")
    ids = Index(keys, "lorentz").search(queries, 60)[1]
    ranks = (ids == np.arange(60)[:, None]).argmax(axis=1) + 1
    assert found["mean_rank"] == pytest.approx(ranks.mean())
    assert found["mean_rank"] != retrieval_metrics(queries, keys)["mean_rank"]


def test_distances_of_measures_are_those_of_the_geometry() -> None:
    x, y = points(20, 4), points(20, 5)
    wanted = -Index(y, "lorentz").search(x, 20)[0].astype(np.float64)
    ids = Index(y, "lorentz").search(x, 20)[1]
    own = wanted[ids == np.arange(20)[:, None]]
    np.testing.assert_allclose(hyperbolic_distances(x, y), own, rtol=1e-6)
    np.testing.assert_allclose(hyperbolic_distances(x, np.zeros_like(x)), radii(x), rtol=1e-9)
    one, two = lifted_pair(x, y)
    np.testing.assert_allclose(np.cosh(hyperbolic_distances(x, y)), -np.sum(one * two, axis=1), rtol=1e-9)
    with pytest.raises(ArgumentError, match="row-aligned"):
        hyperbolic_distances(x, y[:3])
