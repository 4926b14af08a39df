"""Centralities against networkx, and their limits."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from nearfar.ops.centrality import degree, eigenvector_centrality, pagerank


def directed() -> tuple[nx.DiGraph, torch.Tensor]:
    """A walker goes from a node to those that list it; node 9 is listed by none."""
    graph = nx.gnp_random_graph(12, 0.25, seed=3, directed=True)
    graph.remove_edges_from([(9, other) for other in range(12)])
    return graph, torch.tensor([(listing, listed) for listed, listing in graph.edges]).T


def test_pagerank_is_that_of_networkx_also_with_a_dead_end_and_a_start() -> None:
    graph, links = directed()
    expected = nx.pagerank(graph, alpha=0.85, tol=1e-12, max_iter=500)
    torch.testing.assert_close(pagerank(links, 12), torch.tensor([expected[i] for i in range(12)]).double())
    start = torch.zeros(12)
    start[2] = 1
    expected = nx.pagerank(graph, alpha=0.7, personalization={2: 1}, tol=1e-12, max_iter=500)
    found = pagerank(links, 12, restart=0.3, seed=start)
    torch.testing.assert_close(found, torch.tensor([expected[i] for i in range(12)]).double())


def test_pagerank_is_no_walk_without_restart() -> None:
    star = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])
    walk = degree(star, 4) / 6  # where a walk that never starts anew ends
    assert pagerank(star, 4)[0] < walk[0] - 0.01


def test_eigenvector_centrality_of_a_bipartite_graph_does_not_swing() -> None:
    path = nx.path_graph(5)
    links = torch.tensor([*path.edges, *[(b, a) for a, b in path.edges]]).T
    expected = nx.eigenvector_centrality_numpy(path)
    found = eigenvector_centrality(links, 5)
    torch.testing.assert_close(found, torch.tensor([abs(expected[i]) for i in range(5)]).double())


def test_degree_counts_those_without_links() -> None:
    assert degree(torch.tensor([[0, 0, 2], [1, 2, 0]]), 4).tolist() == [2, 0, 1, 0]
    assert pagerank(torch.empty(2, 0, dtype=torch.long), 4).tolist() == pytest.approx([0.25] * 4)
