"""The rank graph is what sorting all scores would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.batching import rank_graph as module
from nearfar.batching.rank_graph import rank_graph, rank_window
from nearfar.errors import ArgumentError


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return nn.functional.normalize(
        torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def ranks(queries: Tensor, targets: Tensor) -> np.ndarray:
    """R[i, j]: how many targets score above target j for query i."""
    scores = (queries.double() @ targets.double().T).numpy()
    return (scores[:, None, :] > scores[:, :, None]).sum(2)


@pytest.mark.parametrize(("skip", "window"), [(0, 1), (0, 5), (3, 4), (10, 100), (28, 1), (0, 29)])
def test_the_window_holds_the_ranks_it_says(skip: int, window: int) -> None:
    queries, targets = unit(23, 6, 0), unit(29, 6, 1)
    found, rank = rank_window(queries, targets, skip, window), ranks(queries, targets)
    assert found.shape == (23, min(window, 29 - skip))
    assert (np.take_along_axis(rank, found, 1) == np.arange(skip, skip + found.shape[1])).all()


@pytest.mark.parametrize(("skip", "window"), [(0, 4), (2, 3), (5, 9), (3, 100)])
def test_an_edge_weighs_one_or_two_if_both_rank_each_other(skip: int, window: int) -> None:
    queries, targets = unit(31, 5, 2), unit(31, 5, 3)
    rank = ranks(queries, targets)
    directed = (rank >= skip) & (rank < skip + window)
    np.fill_diagonal(directed, False)
    graph = rank_graph(queries, targets, skip, window)
    assert (graph.toarray() == directed.astype(int) + directed.T).all()
    assert (graph.data > 0).all(), "an edge of weight 0 is stored"
    assert graph.nnz <= 2 * window * 31


def test_the_best_ranked_are_skipped_and_the_own_target_counts_among_them() -> None:
    """On a line each point's own target is its best, the next two its neighbours."""
    angles = torch.arange(8) * 0.1 + torch.arange(8) ** 2 * 0.001
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert rank_graph(points, points, 0, 1).nnz == 0
    near = rank_graph(points, points, 1, 1).toarray()
    assert near[3, 2] == 1, "2 is the nearest of 3, but 1 is that of 2"
    assert near[1, 0] == 2
    far = rank_graph(points, points, 3, 2).toarray()
    assert (np.diag(far, 1)[1:-1] == 0).all(), "the two best are skipped"
    assert far[3].sum() > 0


def test_copies_of_a_target_get_no_edge_and_others_keep_theirs() -> None:
    queries, targets = unit(20, 5, 4), unit(20, 5, 5)
    targets[13] = targets[2]
    same = np.arange(20)
    same[13] = 2
    plain = rank_graph(queries, targets, 0, 12).toarray()
    graph = rank_graph(queries, targets, 0, 12, same).toarray()
    assert plain[2, 13] > 0
    assert graph[2, 13] == graph[13, 2] == 0
    plain[2, 13] = plain[13, 2] = 0
    assert (graph == plain).all()


def test_queries_in_blocks_rank_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, targets = unit(30, 5, 6), unit(30, 5, 7)
    whole = rank_window(queries, targets, 2, 6)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert (rank_window(queries, targets, 2, 6) == whole).all()


@pytest.mark.parametrize(
    ("skip", "window", "word"), [(-1, 5, "skip"), (9, 5, "skip must be below .* 9, got 9"), (0, 0, "window")]
)
def test_a_window_without_targets_is_refused(skip: int, window: int, word: str) -> None:
    with pytest.raises(ArgumentError, match=word):
        rank_window(unit(9, 4, 0), unit(9, 4, 1), skip, window)


def test_rows_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ArgumentError, match="got 9 and 8"):
        rank_graph(unit(9, 4, 0), unit(8, 4, 1), 0, 3)
