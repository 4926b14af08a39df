"""GRAM: all modalities of an item at once, near where they span no volume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.kinds import Audio, Image, Text, Vector
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.towers import linear_towers
from nearfar.errors import check_between
from nearfar.geometry import negative_volumes
from nearfar.heads.matching import MatchingHead
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, Temperature, info_nce
from nearfar.space import Space

FLOOR = 1e-4
"""Added to the probability of every wrong item before one is drawn."""


class GRAM(Method):
    """An anchor and all other modalities of its item span a small volume, those of other items a large one.

        V[i,j] = sqrt(det G),  G: inner products of the anchor of item i and all others of item j, unit rows [k, d]
        loss = 1/2 [ CE(-V / t) + CE(-V^T / t) ] + w L_match        targets 1 - e on the diagonal, e spread evenly

    L_match is the cross-entropy of a small transformer that reads the anchor's tokens with attention to those of
    the others and says whether they are of one item: once for each item, once with a wrong item's others and once
    with a wrong anchor, both drawn with probability softmax(-V / t). It judges in training only; reranking by it
    is not offered.

    V is blind to signs: what points the opposite way counts as near, and so it does in the space that stays
    (geometry "gram"). `nearfar.search.rank_by_volume` ranks items by the volume that they span with any number
    of queries of different modalities. With many modalities all volumes are small, and t must fall: it is
    learned. Squared volumes below 1e-6 have no gradient, where the released code has an unbounded one.

    Two to six columns: `anchor`, `second`, and up to `sixth`, each with an encoder of its own, such as
    `--encoder anchor=minilm`. A linear head on each. Depth and width of the matching transformer are ours.

    Args:
        dim: d, width of the shared space.
        temperature: t at the start.
        smoothing: e, share of the targets that is spread over the batch.
        matching: w, weight of L_match; 0 turns it off.

    Cicchetti, Grassucci, Sigillo, Comminiello. "Gramian Multimodal Representation Learning and Alignment."
    ICLR 2025.
    """

    reads = {
        "anchor": Text | Image | Audio | Vector,
        "second": Text | Image | Audio | Vector,
        "third": Text | Image | Audio | Vector | None,
        "fourth": Text | Image | Audio | Vector | None,
        "fifth": Text | Image | Audio | Vector | None,
        "sixth": Text | Image | Audio | Vector | None,
    }

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        dim: int = 512,
        temperature: float = 0.07,
        smoothing: float = 0.1,
        matching: float = 0.1,
    ) -> None:
        super().__init__()
        check_between(0, math.inf, matching=matching)
        check_between(0, 1, smoothing=smoothing)
        self.towers = linear_towers(encoders, dim)
        self.temperature = Temperature("exp", temperature, minimum=0.01)
        self.smoothing, self.matching = smoothing, matching
        widths = [encoder.dim for encoder in encoders.values()]
        self.judge: nn.Module | None = MatchingHead(widths[0], widths[1:]) if matching else None

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        return {name: encoder.prepare(rows[name]) for name, encoder in self._encoders().items()}

    def _encoders(self) -> dict[str, Encoder]:
        return self.towers.parts()[0]

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z = {}
        for name, encoder in self._encoders().items():
            features = encoder(batch[name])
            z[name] = self.towers.heads[name](features.pooled)
            if self.judge is not None:
                z |= {f"{name} tokens": features.tokens, f"{name} mask": features.mask}
        return z

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        items = torch.stack([z[name] for name in self.towers.encoders], dim=1)
        terms = {
            "volume": info_nce(
                items,
                items,
                self._targets(len(items), items),
                temperature=self.temperature(),
                symmetric=True,
                score=anchor_volumes,
            )
        }
        if self.judge is not None:
            terms["matching"] = self.matching * self._matching(z, items)
        return terms

    def _targets(self, n: int, like: Tensor) -> Pairing:
        if not self.smoothing:
            return Pairing.diagonal()
        even = torch.full((n, n), self.smoothing / n, device=like.device)
        return Pairing.weighted(even.fill_diagonal_(1 - self.smoothing + self.smoothing / n), backward="same")

    def _matching(self, z: dict[str, Tensor], items: Tensor) -> Tensor:
        names = list(self.towers.encoders)
        tokens = [(z[f"{name} tokens"], z[f"{name} mask"]) for name in names]
        n = len(items)
        own = torch.arange(n, device=items.device)
        with torch.no_grad():
            near = anchor_volumes(items, items) / self.temperature()
            others, anchors = (_drawn(scores) for scores in (near, near.mT))
        of_anchor, of_others = torch.cat([own, own, anchors]), torch.cat([own, others, own])
        logits = self.judge_of(tokens, of_anchor, of_others)
        target = torch.cat([torch.ones_like(own), torch.zeros_like(own), torch.zeros_like(own)])
        return nn.functional.cross_entropy(logits, target)

    def judge_of(self, tokens: list[tuple[Tensor, Tensor]], anchors: Tensor, others: Tensor) -> Tensor:
        """Logits [M, 2] that anchor `anchors[m]` and the other parts of item `others[m]` are one item's."""
        assert self.judge is not None
        first, *rest = tokens
        judged: Tensor = self.judge(
            tuple(part[anchors] for part in first), [tuple(part[others] for part in pair) for pair in rest]
        )
        return judged

    def space(self) -> Space:
        return Space(*self.towers.parts(), geometry="gram")


def anchor_volumes(queries: Tensor, items: Tensor) -> Tensor:
    """-V of the anchors of some items [B, k, d] with all the others of other items [M, k, d]: [B, M]."""
    return negative_volumes(queries[:, 0], items[:, 1:])


def _drawn(scores: Tensor) -> Tensor:
    """For each row another row, with the probability that softmax of the scores [B, B] gives it."""
    chances = torch.softmax(scores, 1) + FLOOR
    drawn: Tensor = torch.multinomial(chances.fill_diagonal_(0), 1)[:, 0]
    return drawn
