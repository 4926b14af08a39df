"""ANCE: negatives are what the encoder itself finds and should not, searched for anew as it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.batching.mining import Corpus, mine
from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Embed, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.search import BM25, Index
from nearfar.space import Space


class ANCE(Method):
    """A text is nearer to its positive than to what the encoder confuses with it, among all positives.

        f(x) = LayerNorm(W h(x) + b)        s(q, d) = f(q) . f(d)        h: token 0, f: [B, d], one encoder
        loss = mean over triples of -log( e^s(q,d+) / (e^s(q,d+) + e^s(q,d-)) ) = softplus(s(q,d-) - s(q,d+))

    No temperature, no scaling to unit length and no negatives from the batch: each query meets its own
    mined d- alone. Every k steps all different positives are encoded in evaluation mode and indexed for
    exact search by inner product; of the K best for each query, n are drawn evenly that are none of its
    known positives (those of all rows with its text, and its own text). A step draws one of the n for each
    row, where the released loader goes through n triples in turn. Before that, the same loss warms up on n
    of the K best by BM25, found once. top_k = n_neg takes the first hits, the released option "topk".

    The release mines beside training, in another process, so that its negatives are one refresh older, and
    for a fifth of the queries at a time; here training waits, and all queries are mined. It optimises with
    LAMB, and warms up in a run of its own: that `warm_up` is a share of one run is ours. Long texts are read
    up to the encoder's limit (FirstP); the maximum over passages (MaxP) is not offered. The pooling is the
    encoder's own where its folder names one, and the mean (ours) where it is from scratch: first tokens
    that have learned nothing are all alike, and one negative a row parts them slowly.

    Args:
        top_k: K, hits of which negatives are drawn.
        n_neg: n, negatives kept of each row until the next search.
        refresh_every: k, steps between two searches.
        warm_up: share of all steps, the first ones, on negatives by BM25; 1 never mines, 0 mines at once.

    Xiong, Xiong, Li, Tang, Liu, Bennett, Ahmed, Overwijk. "Approximate Nearest Neighbor Negative
    Contrastive Learning for Dense Text Retrieval." ICLR 2021.
    """

    reads = {"text": Text, "positive": Text}

    def __init__(
        self,
        encoder: TransformerText,
        top_k: int = 200,
        n_neg: int = 20,
        refresh_every: int = 10_000,
        warm_up: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(1, math.inf, top_k=top_k, n_neg=n_neg, refresh_every=refresh_every)
        check_between(0, 1, warm_up=warm_up)
        if n_neg > top_k:
            raise ArgumentError(f"n_neg negatives are drawn of top_k hits: got n_neg {n_neg} of {top_k}")
        if encoder.pretrained:
            encoder.choose_pooling("own")
        encoder.normalise = False
        self.encoder = encoder
        self.head = Projection(encoder.dim, encoder.dim, kind="normed")
        linear = self.head.map[0]
        assert isinstance(linear, nn.Linear)
        nn.init.normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        self.top_k, self.n_neg, self.refresh_every, self.warm_up = top_k, n_neg, refresh_every, warm_up
        self.mined: np.ndarray | None = None
        self._searched: list[int] = []  # the steps done at each search of this run so far

    # -- mining ------------------------------------------------------------------------------------

    def refreshes(self, steps: int) -> Sequence[int]:
        warm = round(self.warm_up * steps)
        return [*range(min(1, warm)), *range(warm, steps, self.refresh_every)]

    def refresh(self, table: Table, embed: Embed, step: int, steps: int) -> None:
        """Search for negatives: by BM25 at the start of the warm-up, after it by the encoder as it is."""
        corpus = Corpus.of(table, "text", "positive")
        targets = table.select(corpus.rows)
        search: BM25 | Index
        queries: Sequence[str] | np.ndarray
        if step < round(self.warm_up * steps):
            search, queries = BM25(targets.column("positive")), table.column("text")
        else:
            search = Index(embed(targets, "positive").numpy(), "dot")
            queries = embed(table, "text").numpy()
        random = np.random.default_rng(torch.initial_seed())
        self._searched = [at for at in self.refreshes(steps) if at <= step]
        self.mined = mine(search, queries, corpus, self.top_k, self.n_neg, random)

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """The cells of the rows, and of each the texts of its n negatives, fewer where there are no more."""
        if self.mined is None:
            raise ArgumentError("refresh finds the negatives: call it before examples")
        found = self.mined[rows]
        texts = iter(table.rows(found[found >= 0])["positive"])
        negatives = [list(islice(texts, int(count))) for count in (found >= 0).sum(axis=1)]
        return {**super().examples(table, rows), "negative": negatives}

    # -- learning ----------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        if "negative" in rows:
            drawn = torch.rand(len(rows["negative"]), generator=generator).tolist()
            one = [texts[int(u * len(texts))] for u, texts in zip(drawn, rows["negative"], strict=True)]
            rows = {**rows, "negative": one}
        return super().prepare(rows, generator)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {role: self.head(self.encoder(inputs).pooled) for role, inputs in batch.items()}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        loss = info_nce(
            z["text"],
            z["positive"],
            Pairing.diagonal(others="ignored"),
            extra_keys=z["negative"].unsqueeze(1),
            temperature=1.0,
            score="dot",
        )
        return {"nll": loss}

    def notes(self) -> list[str]:
        if not self._searched:
            return []
        times, words = len(self._searched), ", first by words," if self.warm_up else ""
        return [
            f"negatives were mined {times} time{'s' * (times > 1)}{words} the last time before step "
            f"{self._searched[-1] + 1:,}; refresh_every is {self.refresh_every:,}"
        ]

    def negatives(self, batch_size: int) -> int:
        return 1

    def space(self) -> Space:
        return Space({"text": self.encoder}, {"text": self.head}, geometry="dot")
