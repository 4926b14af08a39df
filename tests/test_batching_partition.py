"""Parts have exactly the size that was asked, and hold the edges that can be held."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from nearfar.batching.clusters import ClusterOrder, whole_clusters
from nearfar.batching.partition import _of_exact_size, balanced_partition, share_inside
from nearfar.errors import ArgumentError, MissingExtra


def graph_of(dense: np.ndarray) -> Any:
    return csr_array(np.asarray(dense, dtype=np.int32))


def random_graph(rows: int, share: float, seed: int) -> Any:
    drawn = np.triu(np.random.default_rng(seed).random((rows, rows)) < share, 1).astype(np.int32)
    return graph_of(drawn + drawn.T)


def cliques(parts: int, size: int, seed: int) -> tuple[Any, np.ndarray]:
    """Rows in a random order, all joined with those of their own part and a few others."""
    belongs = np.random.default_rng(seed).permutation(np.repeat(np.arange(parts), size))
    dense = 2 * (belongs[:, None] == belongs[None, :]).astype(np.int32)
    np.fill_diagonal(dense, 0)
    noise = random_graph(parts * size, 0.02, seed).toarray()
    return graph_of(np.where(dense > 0, dense, noise)), belongs


# -- parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "size"), [(64, 8), (67, 8), (65, 8), (71, 8), (100, 3), (37, 36), (20, 20), (12, 30), (9, 1)]
)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 1.0])
def test_every_part_has_exactly_its_size(rows: int, size: int, share: float) -> None:
    labels = balanced_partition(random_graph(rows, share, rows), size)
    whole, left_over = divmod(rows, size)
    assert np.bincount(labels).tolist() == [size] * whole + [left_over] * (left_over > 0)


def test_unlike_sizes_of_communities_are_evened_out() -> None:
    """Communities of 40, 4, 4, 4, ... rows: parts by community alone would not be of one size."""
    belongs = np.array([0] * 40 + [1 + i // 4 for i in range(40)])
    dense = (belongs[:, None] == belongs[None, :]).astype(np.int32)
    np.fill_diagonal(dense, 0)
    labels = balanced_partition(graph_of(dense), 8)
    assert np.bincount(labels).tolist() == [8] * 10
    for community in range(1, 11):
        assert len(set(labels[belongs == community])) == 1, "a small community can stay in one piece"


@pytest.mark.parametrize(("parts", "size"), [(12, 8), (40, 5), (2, 16)])
def test_planted_cliques_are_found(parts: int, size: int) -> None:
    graph, belongs = cliques(parts, size, seed=parts)
    labels = balanced_partition(graph, size)
    assert len(set(zip(labels.tolist(), belongs.tolist(), strict=True))) == parts
    assert share_inside(graph, labels) == pytest.approx(share_inside(graph, belongs))


def test_the_heavier_edges_are_kept() -> None:
    """A ring of 24 rows, every second edge of weight 2: pairs along those are the best parts."""
    dense = np.zeros((24, 24), dtype=np.int32)
    for i in range(24):
        dense[i, (i + 1) % 24] = dense[(i + 1) % 24, i] = 2 - i % 2
    labels = balanced_partition(graph_of(dense), 2)
    assert share_inside(graph_of(dense), labels) == pytest.approx(2 / 3)


def test_the_same_graph_gives_the_same_parts() -> None:
    graph = random_graph(150, 0.1, 0)
    first = balanced_partition(graph, 16)
    np.random.seed(3)
    assert (balanced_partition(graph, 16) == first).all()


def test_rows_move_from_full_parts_by_least_and_to_others_by_most_weight() -> None:
    """Part 0 = {0, 1, 2, 3} must give one up: row 3 is held least; part 2 pulls it more than part 1."""
    edges = {(0, 1): 2, (1, 2): 2, (0, 2): 2, (2, 3): 1, (3, 4): 1, (3, 6): 2, (4, 5): 2, (6, 7): 2}
    dense = np.zeros((8, 8), dtype=np.int32)
    for (i, j), weight in edges.items():
        dense[i, j] = dense[j, i] = weight
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert _of_exact_size(graph_of(dense), labels, np.array([3, 2, 3])).tolist() == [0, 0, 0, 2, 1, 1, 2, 2]
    assert _of_exact_size(graph_of(dense), labels, np.array([3, 3, 2])).tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 2, 2], "the argument is left as it was"


def test_the_share_inside_is_weighed() -> None:
    dense = np.zeros((4, 4), dtype=np.int32)
    dense[0, 1] = dense[1, 0] = 2
    dense[1, 2] = dense[2, 1] = 1
    assert share_inside(graph_of(dense), np.array([0, 0, 1, 1])) == pytest.approx(2 / 3)
    assert share_inside(graph_of(dense), np.zeros(4)) == 1


def test_a_missing_package_and_a_size_below_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="size"):
        balanced_partition(random_graph(9, 0.5, 0), 0)
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(MissingExtra, match=r"pip install 'nearfar\[retrieval\]'"):
        balanced_partition(random_graph(9, 0.5, 0), 3)


# -- clusters and batches --------------------------------------------------------------------------


def test_whole_clusters_hold_every_row_and_the_nearest_of_a_short_part() -> None:
    graph, _ = cliques(6, 4, seed=1)
    labels = balanced_partition(graph, 4)
    clusters = whole_clusters(graph, labels, 4)
    assert sorted(clusters.ravel()) == list(range(24))
    assert all(len(set(labels[cluster])) == 1 for cluster in clusters)
    labels = balanced_partition(graph, 5)
    clusters = whole_clusters(graph, labels, 5)
    assert clusters.shape == (5, 5)
    members = np.flatnonzero(labels == 4)
    assert clusters[-1][:4].tolist() == members.tolist()
    pull = graph.toarray()[members].sum(0)
    pull[members] = -1
    assert pull[clusters[-1][4]] == pull.max()
    assert set(clusters.ravel()) == set(range(24))


def numbered(*sizes: int, size: int = 4) -> list[np.ndarray]:
    """Groups with so many clusters, of rows in a random order."""
    rows = np.random.default_rng(0).permutation(sum(sizes) * size).reshape(-1, size)
    return np.split(rows, np.cumsum(sizes)[:-1])


def test_each_row_comes_once_and_batches_are_whole_clusters() -> None:
    [group] = numbered(12)
    made = ClusterOrder([group])
    known = {tuple(cluster) for cluster in group}
    seen = set()
    for epoch in range(5):
        order = made.order(48, 16, seed=3, epoch=epoch)
        assert sorted(order) == list(range(48))
        assert {tuple(part) for part in order.reshape(-1, 4)} == known, "rows inside a cluster stay in order"
        seen.add(tuple(order))
    assert len(seen) == 5, "every epoch has its own order"
    together = [
        {
            tuple(sorted(map(tuple, batch.reshape(-1, 4))))
            for batch in made.order(48, 16, 3, e).reshape(-1, 16)
        }
        for e in range(2)
    ]
    assert together[0] != together[1], "other clusters meet"


def test_an_order_is_a_function_of_seed_and_epoch_whatever_was_asked_before() -> None:
    asked = [(0, 0), (0, 1), (1, 0), (0, 0), (0, 2), (0, 1), (1, 0)]
    made = ClusterOrder(numbered(12))
    for seed, epoch in asked:
        order = made.order(48, 8, seed, epoch)
        assert (order == ClusterOrder(numbered(12)).order(48, 8, seed, epoch)).all()
        assert made.order(48, 8, seed, epoch) is order, "it is not drawn anew at every step"
        with pytest.raises(ValueError, match="read-only"):
            order[0] = 1
    assert not (made.order(48, 8, 0, 0) == made.order(48, 8, 1, 0)).all()


def test_clusters_that_fill_no_batch_are_others_in_every_epoch() -> None:
    made = ClusterOrder(numbered(11))
    left_out = set()
    for epoch in range(20):
        order = made.order(44, 16, 0, epoch)
        assert len(order) == 44
        used = order[:32]
        assert len(set(used)) == 32
        left_out |= set(range(44)) - set(used)
    assert left_out == set(range(44))


def test_a_batch_is_of_one_group_and_groups_are_shuffled_among_each_other() -> None:
    groups = numbered(9, 5, 4)
    group_of = {int(row): g for g, group in enumerate(groups) for row in group.ravel()}
    made = ClusterOrder(groups)
    sequences = set()
    for epoch in range(6):
        order = made.order(72, 8, 0, epoch)
        assert len(order) == 72
        kinds = [{group_of[int(row)] for row in batch} for batch in order.reshape(-1, 8)]
        assert all(len(kind) == 1 for kind in kinds)
        sequence = tuple(kind.pop() for kind in kinds)
        assert [sequence[:8].count(g) for g in range(3)] == [4, 2, 2], "each group gives its whole batches"
        assert len(set(order[:64])) == 64
        sequences.add(sequence)
    assert len(sequences) > 1


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (6, "multiple of the 4 rows"),
        (2, "multiple of the 4 rows"),
        (16, "has 3 clusters of 4 rows, fewer than the 4"),
    ],
)
def test_batches_that_clusters_cannot_fill_are_refused(batch_size: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ClusterOrder(numbered(12, 3)).order(60, batch_size, 0, 0)
