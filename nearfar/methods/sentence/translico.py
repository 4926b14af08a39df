"""TransliCo: a text and its own transliteration in one space, so that scripts stand apart no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nearfar.batching.windows import order_of_some
from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.errors import TableError, check_between
from nearfar.heads.language import IGNORED
from nearfar.method import Batch, Method
from nearfar.objectives import nt_xent
from nearfar.space import Space
from nearfar.views.token_masks import hide_tokens
from nearfar.views.transliteration import romanise, vanishes


class TransliCo(Method):
    """A text is near its own transliteration into Latin letters, and far from all others in either script.

        L     = L_mlm(x) + L_mlm(x~) + w L_tcm
        L_tcm = 1/2 mean_i -log exp(g_i . g_p(i) / t) / sum_{j != i} exp(g_i . g_j / t)        g: [2B, d]

    The rows of g are the B texts x and their B transliterations x~, p(i) is the partner of row i, and the products
    are plain: nothing is scaled to length 1. g is the mean of the states of a middle layer over all tokens but
    those that mark the ends, and is taken from the very pass that predicts hidden words, so that x and x~ are read
    with words hidden, by draws of their own. L_mlm is the mean over the hidden words of all texts of a side.
    Transliterations are needed for training only: the space reads texts in their own script, through the same layer.

    The column "transliteration" is read where the table has one; without it, texts are romanised by uroman (extra
    `scripts`), and texts of which nothing is left are passed over. The encoder should be a masked language model
    with both scripts in its vocabulary. From the release differs that unknown tokens are never hidden, and that with
    several processes the others of all of them are far, where there each process contrasts its own.

    Args:
        temperature: t.
        weight: w.
        layer: whose states are pooled, from 1; 0 takes the one two thirds up, which is the paper's 8 of 12.
        share: of the tokens that are hidden; 80% of them are masked, 10% replaced, 10% kept.

    Liu, Ma, Ye, Schütze. "TransliCo: A Contrastive Learning Framework to Address the Script Barrier in Multilingual
    Pretrained Language Models." ACL 2024.
    """

    reads = {"text": Text, "transliteration": Text | None}

    def __init__(
        self,
        encoder: MaskedText,
        temperature: float = 1.0,
        weight: float = 0.5,
        layer: int = 0,
        share: float = 0.15,
    ) -> None:
        super().__init__()
        check_between(0, encoder.layers, layer=layer)
        check_between(0, 1, share=share)
        check_between(0, float("inf"), weight=weight)
        encoder.choose_pooling(f"layer_{layer or max(1, round(encoder.layers * 2 / 3))}")
        encoder.normalise = False  # the products are those of the states at their own scale
        self.encoder, self.temperature, self.weight, self.share = encoder, temperature, weight, share
        self.rows: np.ndarray | None = None
        self.passed_over = 0

    def negatives(self, batch_size: int) -> int:
        return 0  # predicted words and a contrast: their sum has no such baseline

    # -- which rows --------------------------------------------------------------------------------

    def begin(self, table: Table) -> None:
        """Find the texts of which something is left in Latin letters."""
        self.rows, self.passed_over = None, 0
        if "transliteration" in table.kinds:
            return
        gone = np.array([vanishes(text) for text in table.column("text")])
        if gone.all():
            raise TableError(
                f"{table.name}, column {table.role_columns['text']!r}: nothing is left of any text in Latin letters, "
                f"such as that of row {table.row_numbers([0])[0]}. Give transliterations with "
                "--column transliteration=NAME"
            )
        if gone.any():
            self.rows, self.passed_over = np.flatnonzero(~gone), int(gone.sum())

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if self.rows is None:
            return super().order(rows, batch_size, seed, epoch)
        return order_of_some(self.rows, rows, batch_size, seed, epoch)

    def notes(self) -> list[str]:
        if not self.passed_over:
            return []
        return [f"{self.passed_over:,} texts were passed over: nothing is left of them in Latin letters"]

    # -- learning ----------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        latin = rows.get("transliteration") or [romanise(text) for text in rows["text"]]
        batch: Batch = {}
        for side, texts in (("text", rows["text"]), ("latin", latin)):
            inputs, labels = hide_tokens(self.encoder, self.encoder.prepare(texts), self.share, generator)
            batch[side] = {**inputs, "labels": labels}
            batch[f"{side} hidden"] = (labels != IGNORED).sum(dim=1)
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z: dict[str, Tensor] = {}
        for side in ("text", "latin"):
            features = self.encoder(batch[side])
            z[side] = features.pooled
            z[f"{side} surprise"] = self._surprise(features.tokens, batch[side]["labels"])
        return z

    def _surprise(self, states: Tensor, labels: Tensor) -> Tensor:
        """-log p of the hidden words, summed in each text [B], so that `contrast` can take the mean over all."""
        text, place = torch.nonzero(labels != IGNORED, as_tuple=True)
        logits = self.encoder.predict(states[text, place])
        each = functional.cross_entropy(logits, labels[text, place], reduction="none")
        return each.new_zeros(len(labels)).index_add(0, text, each)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = {
            f"mlm {side}": z[f"{side} surprise"].sum() / batch[f"{side} hidden"].sum().clamp(min=1)
            for side in ("text", "latin")
        }
        if self.weight:
            near = nt_xent(z["text"], z["latin"], temperature=self.temperature, score="dot")
            terms["tcm"] = self.weight * near / 2
        return terms

    def space(self) -> Space:
        return Space({"text": self.encoder.plain()})
