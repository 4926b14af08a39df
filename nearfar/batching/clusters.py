"""Batches put together from whole clusters of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.batching.order import KeptOrder
from nearfar.errors import ArgumentError


def whole_clusters(graph: Any, labels: np.ndarray, size: int) -> np.ndarray:
    """The rows of each part; where the last part is short, its nearest rows of other parts come in as well.

    Args:
        graph: `scipy.sparse` matrix [N, N] that was cut.
        labels: the part of each row, [N], as `balanced_partition` returns them.
        size: K, rows of a part, at most N.

    Returns:
        Row numbers, int64 [ceil(N / K), K]; every row is in it, K ceil(N / K) - N of them twice.
    """
    order = np.argsort(labels, kind="stable")
    if short := len(labels) % size:
        members = order[-short:]
        pull = np.asarray(graph[members].sum(axis=0), dtype=np.float64).ravel()
        pull[members] = -1
        order = np.concatenate([order, np.argsort(-pull, kind="stable")[: size - short]])
    return order.reshape(-1, size)


class ClusterOrder(KeptOrder):
    """Orders of an epoch in which every batch is made of whole clusters, drawn anew every epoch.

    A batch has clusters of one group only (a data set, a task); batches of all groups are shuffled among each
    other. Clusters that fill no batch are left out of an epoch, other ones every time. Where the groups' whole batches
    do not fill an epoch, it goes on with batches of a second draw. `order` refuses a batch that is no multiple of K, or
    is larger than a group.

    Args:
        groups: of each group its clusters, int64 [C, K] row numbers, all of one K.
    """

    def __init__(self, groups: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.groups = list(groups)
        self.size = self.groups[0].shape[1]

    def _drawn(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        each, rest = divmod(batch_size, self.size)
        if rest or not each:
            raise ArgumentError(
                f"batch_size must be a multiple of the {self.size} rows of a cluster, got {batch_size}"
            )
        if (smallest := min(len(group) for group in self.groups)) < each:
            raise ArgumentError(
                f"a task has {smallest} clusters of {self.size} rows, fewer than the {each} of a batch: take a "
                "smaller batch_size, or leave the task out"
            )
        random = np.random.default_rng([seed, epoch])
        passes: list[np.ndarray] = []
        while sum(drawn.size for drawn in passes) < rows:
            batches = [
                group[random.permutation(len(group))[: len(group) // each * each]].reshape(-1, batch_size)
                for group in self.groups
            ]
            passes.append(random.permutation(np.concatenate(batches)))
        return np.concatenate(passes).reshape(-1)[:rows]
