"""Views of graphs: what is dropped, how readily, and what never is."""

from __future__ import annotations

import math

import pytest
import torch

from nearfar.ops.centrality import degree
from nearfar.views.graph import MOST, drop_graph, drop_weights

STAR = torch.tensor([[0, 0, 0, 1, 2, 3, 3, 4], [1, 2, 3, 0, 0, 0, 4, 3]])
"""Node 0 has three neighbours, node 3 two, the others one."""
WORDS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 5, 0], [0, 0, 0, 0]])
"""Feature 3 is of no node."""


def test_weights_are_those_of_the_formula() -> None:
    weights = drop_weights(WORDS, STAR, "degree")
    x = [math.log(count) for count in (3, 3, 3, 1, 1, 2, 2, 1)]
    top, mean = max(x), sum(x) / len(x)
    s = torch.tensor([(top - value) / (top - mean) for value in x])
    torch.testing.assert_close(weights.links, s / s.mean())
    c = degree(STAR, 5)
    known = torch.tensor([c[0] + c[1] + c[3], c[1], c[3]]).log()
    s = (known.max() - known) / (known.max() - known.mean())
    torch.testing.assert_close(weights.features[:3], (s / s.mean()).float())


def test_a_feature_of_no_node_spoils_no_other() -> None:
    weights = drop_weights(WORDS, STAR)
    assert weights.features[3] == 0
    assert bool(torch.isfinite(weights.features).all())


def test_dense_features_count_by_their_size() -> None:
    dense = torch.tensor([[1.0, 9.0], [1.0, 9.0], [1.0, -9.0], [1.0, 9.0], [1.0, 9.0]])
    weights = drop_weights(dense, STAR)
    assert weights.features[1] == 0  # the most important
    assert weights.features[0] == 2


@pytest.mark.parametrize("centrality", ["pagerank", "degree", "eigenvector"])
def test_where_all_nodes_are_alike_all_links_are_dropped_alike(centrality: str) -> None:
    ring = torch.tensor(
        [[i for i in range(6) for _ in (0, 1)], [(i + s) % 6 for i in range(6) for s in (1, 5)]]
    )
    weights = drop_weights(torch.ones(6, 3), ring, centrality)  # type: ignore[arg-type]
    assert weights.links.tolist() == [1] * 12
    assert weights.features.tolist() == [1] * 3


def test_shares_come_out_and_are_cut_off() -> None:
    weights = drop_weights(WORDS, STAR, "degree")
    draws = torch.zeros(STAR.shape[1])
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        _, links = drop_graph(WORDS, STAR, generator, drop_links=0.5, drop_features=0.0, weights=weights)
        left = {tuple(pair) for pair in links.T.tolist()}
        draws += torch.tensor([tuple(pair) in left for pair in STAR.T.tolist()])
    expected = 1 - (0.5 * weights.links).clamp(max=MOST)
    torch.testing.assert_close(draws / 2000, expected, atol=0.04, rtol=0)
    assert expected.min() == pytest.approx(1 - MOST)
    assert expected.max() == 1  # links of the most central node stay


def test_a_feature_goes_from_all_nodes_or_from_none() -> None:
    features = torch.rand(50, 30) + 0.1
    dropped, links = drop_graph(
        features, STAR, torch.Generator().manual_seed(1), drop_links=0.0, drop_features=0.4
    )
    gone = (dropped == 0).all(0)
    assert 0 < int(gone.sum()) < 30
    assert torch.equal(dropped[:, ~gone], features[:, ~gone])
    assert torch.equal(links, STAR)


def test_sparse_features_give_the_same_view() -> None:
    options = {"drop_links": 0.3, "drop_features": 0.5}
    for seed in range(5):
        dense = drop_graph(WORDS, STAR, torch.Generator().manual_seed(seed), **options)
        sparse = drop_graph(WORDS.to_sparse(), STAR, torch.Generator().manual_seed(seed), **options)
        assert torch.equal(sparse[0].to_dense(), dense[0])
        assert torch.equal(sparse[1], dense[1])
    one, two = drop_weights(WORDS, STAR), drop_weights(WORDS.to_sparse(), STAR)
    torch.testing.assert_close(one.features, two.features)
