"""Who confuses whom, by the ranks that a teacher gives: a sparse graph of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError, check_between
from nearfar.progress import track
from nearfar.search.ranking import top_k

_BLOCK = 4096
"""Queries ranked at once."""


def rank_window(queries: Tensor, targets: Tensor, skip: int, window: int) -> np.ndarray:
    """The targets of rank skip, ..., skip + window - 1 for each query, the best target having rank 0.

    Streams over queries and targets: beside its arguments it holds the result and a constant.

    Args:
        queries: [N, d]; of unit length for ranks by cosine.
        targets: [M, d].
        skip: p, best-ranked targets left out.
        window: m, targets taken after them; fewer where there are no more.

    Returns:
        Numbers of targets, int32 [N, min(m, M - p)], best first, equal scores in their order.

    Raises:
        ArgumentError: skip is negative or leaves no target, window is below 1, or rows are not finite.
    """
    check_between(0, np.inf, skip=skip)
    check_between(1, np.inf, window=window)
    if skip >= len(targets):
        raise ArgumentError(
            f"skip must be below the number of targets that are ranked, {len(targets)}, got {skip}"
        )
    found = np.empty((len(queries), min(window, len(targets) - skip)), dtype=np.int32)
    for start in track(range(0, len(queries), _BLOCK), "ranking targets"):
        part = slice(start, start + _BLOCK)
        found[part] = top_k(queries[part], targets, skip + window)[1][:, skip:].cpu().numpy()
    return found


def rank_graph(
    queries: Tensor, targets: Tensor, skip: int, window: int, same: np.ndarray | None = None
) -> Any:
    """An undirected graph of rows: i - j where the teacher ranks target j in query i's window, or i in j's.

        W = A + A^T,    A_ij = 1 where skip <= rank of target j for query i < skip + window, j != i

    so an edge weighs 1, or 2 where it is mutual. The best-ranked are skipped as likely false negatives; a
    row's own target counts in the ranking and makes no edge.

    Args:
        queries: [N, d], of the teacher.
        targets: [N, d]; row i belongs to query i.
        skip: p.
        window: m.
        same: [N] numbers; rows of equal number have one target and get no edge.

    Returns:
        Symmetric `scipy.sparse.csr_array` int32 [N, N] with at most 2 m N entries.

    Raises:
        ArgumentError: as `rank_window`, or queries and targets are not as many.
    """
    from scipy.sparse import csr_array

    if len(queries) != len(targets):
        raise ArgumentError(f"row i of targets belongs to query i; got {len(queries)} and {len(targets)}")
    near = rank_window(torch.as_tensor(queries), torch.as_tensor(targets), skip, window)
    names = np.arange(len(near)) if same is None else np.asarray(same)
    kept = names[near] != names[:, None]
    starts = np.concatenate([[0], np.cumsum(kept.sum(1))])
    directed = csr_array(
        (np.ones(starts[-1], dtype=np.int32), near[kept], starts), shape=(len(near), len(near))
    )
    graph = csr_array(directed + directed.T)
    graph.sort_indices()
    return graph
