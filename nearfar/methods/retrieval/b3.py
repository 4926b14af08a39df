"""B3: batches of rows that a teacher confuses with each other, found before training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.clusters import ClusterOrder, whole_clusters
from nearfar.batching.copies import text_ids
from nearfar.batching.partition import EXTRA, balanced_partition
from nearfar.batching.rank_graph import rank_graph
from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.encoders.encoder import Encoder
from nearfar.errors import ArgumentError, check_between, need
from nearfar.method import Batch, Embed, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space


class B3(Method):
    """In-batch negatives that are hard, because batches are communities of a teacher's rank graph.

    Once, before training: a frozen teacher ranks all targets y_j for each query x_i, the best having rank
    R_i(j) = 0. Rows i and j get an edge where one ranks the other behind the likely false negatives:

        A_ij = 1 where p <= R_i(j) < p + m and y_j is not y_i        W = A + A^T

    METIS cuts W into parts of exactly K rows with as much weight inside as possible. Every epoch the parts
    are shuffled, never the rows inside, and each batch takes B / K of them, all of one task. Then

        loss = mean_i -log exp(cos(x_i, y_i) / t) / sum_j exp(cos(x_i, y_j) / t)        x, y: [B, d]

    over the targets of the batch, one direction; copies of a query's own target are left out of its sum. A
    column `negative` adds mined hard negatives of all rows to every sum (B3++). A column `task` says which
    data set a row is from. The last part is filled with its nearest rows where K does not divide N.

    The teacher only chooses who meets whom: no weight of it reaches the encoder. Pooling is the encoder's
    own (the paper's is the last token of a language model). The mining script was never released: rank
    window and partition are reconstructed, and the window is read off the name of a released run. That
    copies of a target get no edge is ours.

    Args:
        teacher: frozen encoder that ranks: "minilm", a folder, or a name on the hub.
        cluster: K, rows of a part; the batch size must be a multiple of it.
        skip: p, best-ranked targets that make no edge.
        window: m, targets after them that do.
        temperature: t.

    Thirukovalluru et al. "Breaking the Batch Barrier (B3) of Contrastive Learning via Smart Batch Mining." NeurIPS
    2025.
    """

    reads = {"text": Text, "positive": Text, "negative": Text | None, "task": Label | None}

    def __init__(
        self,
        encoder: Encoder,
        teacher: str = "minilm",
        cluster: int = 32,
        skip: int = 30,
        window: int = 100,
        temperature: float = 0.02,
    ) -> None:
        super().__init__()
        check_between(2, math.inf, cluster=cluster)
        check_between(0, math.inf, skip=skip)
        check_between(1, math.inf, window=window)
        check_between(1e-4, math.inf, temperature=temperature)
        if teacher == "tiny":
            raise ArgumentError(
                "teacher 'tiny' would rank by random weights: name a trained encoder, such as 'minilm' or a folder"
            )
        need("pymetis", EXTRA)  # said now, not after the teacher has read the whole table
        self.encoder = encoder
        self.teacher, self.cluster, self.skip, self.window = teacher, cluster, skip, window
        self.temperature = temperature
        self.clusters: ClusterOrder | None = None
        self._mined_on = ""

    # -- who meets whom ----------------------------------------------------------------------------

    def before_epoch(self, table: Table, embed: Embed) -> None:
        """Find the clusters, the first time; the teacher does not change, so neither do they."""
        if self._mined_on == table.fingerprint:
            return
        tasks = np.asarray(table.column("task") if "task" in table.kinds else np.zeros(len(table)))
        groups = [np.flatnonzero(tasks == task) for task in np.unique(tasks)]
        if (fewest := min(map(len, groups))) < self.cluster:
            raise ArgumentError(
                f"cluster must be at most the rows of {table.name}"
                f"{', task by task,' if len(groups) > 1 else ','} {fewest}, got {self.cluster}"
            )
        queries, targets = self.teach(table)
        names = text_ids(table.column("positive"))
        self.clusters = ClusterOrder([self.mine(queries, targets, names, rows) for rows in groups])
        self._mined_on = table.fingerprint

    def teach(self, table: Table) -> tuple[Tensor, Tensor]:
        """Queries and targets as the teacher sees them: unit rows [N, d] each."""
        teacher = make_encoder(self.teacher, Text, []).to(next(self.encoder.parameters()).device)
        space = Space({"text": teacher})
        queries, targets = (space.encode(table.column(role)) for role in ("text", "positive"))
        return torch.from_numpy(queries), torch.from_numpy(targets)

    def mine(self, queries: Tensor, targets: Tensor, names: Tensor, rows: np.ndarray) -> np.ndarray:
        """The clusters of some rows of the table, which rank each other only.

        Args:
            queries: [N, d], of the whole table.
            targets: [N, d].
            names: one number for each different target, [N].
            rows: R row numbers, at least K.

        Returns:
            Row numbers, int64 [ceil(R / K), K].
        """
        graph = rank_graph(queries[rows], targets[rows], self.skip, self.window, names.numpy()[rows])
        return rows[whole_clusters(graph, balanced_partition(graph, self.cluster), self.cluster)]

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.clusters is None:
            raise ArgumentError("before_epoch finds the clusters: call it before order")
        return self.clusters.order(rows, batch_size, seed, epoch)

    # -- learning ----------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch = super().prepare({role: cells for role, cells in rows.items() if role != "task"}, generator)
        for role in ("positive", "negative"):
            if role in rows:
                batch[f"{role} name"] = text_ids(rows[role])
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        roles = [role for role in ("text", "positive", "negative") if role in batch]
        return {role: self.encoder(batch[role]).pooled for role in roles}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        own = batch["positive name"]
        mined: dict[str, Any] = {}
        if "negative" in z:
            mined = {
                "extra_keys": z["negative"],
                "extra_pairing": Pairing.none().ignoring(own, batch["negative name"]),
            }
        pairing = Pairing.diagonal().ignoring(own)
        return {
            "info_nce": info_nce(z["text"], z["positive"], pairing, temperature=self.temperature, **mined)
        }

    def space(self) -> Space:
        return Space({"text": self.encoder})
