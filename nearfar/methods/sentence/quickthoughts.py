"""Quick-Thoughts: sentences are near those beside them in running text."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.order import running_order
from nearfar.batching.windows import windows
from nearfar.data.kinds import Id, Text
from nearfar.data.table import Table
from nearfar.encoders.composed import ConcatenatedText
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.recurrent import RecurrentText
from nearfar.encoders.text import TransformerText
from nearfar.errors import TableError, check_between
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space


class QuickThoughts(Method):
    """Tell the sentences before and after a sentence from all others of a stretch of text.

        S = U V^T, its diagonal set to 0        u_i = f(s_i), v_i = g(s_i): U, V [B, d]
        loss_i = - mean over j in N(i) of log( exp(S_ij) / sum_k exp(S_ik) ),   N(i) = {j != i: |i - j| <= c}

    f and g are two encoders of one shape with parameters of their own, word embeddings included. A batch is B
    sentences in running order, never shuffled; rows must stand in the table as they stand in the text. Scores are
    plain inner products, without temperature. A text is embedded as [f / |f| ; g / |g|], of width 2d.

    As in the release, a sentence's own score counts as e^0 among the others. N(i) holds what is in the batch, is in
    one `document` if the table has such a column (the release lets windows cross documents), and has no row missing in
    between, such as one that was left out or held out; a sentence for which nothing is left has no loss.

    Without another encoder f is a GRU in both directions over words, smaller than the paper's: 128 numbers a word, 256
    a sentence and at most 20,000 words, in place of 620, 1,200 and 50,000. g then begins with weights of its own. Of an
    encoder that was trained before, g begins as a copy (ours); both sides of one that this method made go on as f and
    g. Scaling to length 1 is turned off, since a cosine bounds the scores. Not offered: the dropout that both sides
    share, the joining of two models over fixed and learnt word vectors, and the extension of the vocabulary by a
    linear map.

    The paper trains one epoch with batches of 400, rate 5e-4 and gradients clipped to 5.

    Args:
        context: c, sentences on each side that are near.
        diagonal: "zero_logit" as released; "drop" leaves a sentence's own score out of the sum.

    Logeswaran, Lee. "An Efficient Framework for Learning Sentence Representations." ICLR 2018.
    """

    reads = {"text": Text, "document": Id | None}
    together = "document"

    def __init__(
        self,
        encoder: RecurrentText | Encoder,
        context: int = 1,
        diagonal: Literal["zero_logit", "drop"] = "zero_logit",
    ) -> None:
        super().__init__()
        check_between(1, math.inf, context=context)
        self.encoder, self.second = _towers(encoder)
        for tower in (self.encoder, self.second):
            if isinstance(tower, TransformerText):
                tower.normalise = False
        self.context, self.diagonal = context, diagonal
        self.followed = 0

    def begin(self, table: Table) -> None:
        """Refuse a table in which no sentence is followed by another of its text."""
        rows = np.arange(len(table))
        texts = np.array(table.column("document")) if "document" in table.kinds else np.zeros_like(rows)
        self.followed = len(windows(texts, 0, 1, np.array(table.row_numbers(rows))))
        if not self.followed:
            raise TableError(
                f"{table.name}: no row is followed by another of its document. Rows must be sentences in running "
                "order; leave the column of documents away if each row is one"
            )

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return running_order(rows, batch_size, epoch)

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """The cells of the batch, and where its rows stand in the whole table ("place")."""
        return {**super().examples(table, rows), "place": table.row_numbers(rows)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"one": self.encoder(batch["text"]).pooled, "two": self.second(batch["text"]).pooled}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        itself = torch.arange(len(z["one"]), device=z["one"].device)
        pairing = Pairing.weighted(self._neighbours(batch)).ignoring(itself)
        # A key of zeros has the score 0 with every sentence, as the diagonal is to have.
        zero = z["two"].new_zeros(1, z["two"].shape[1]) if self.diagonal == "zero_logit" else None
        loss = info_nce(
            z["one"], z["two"], pairing, temperature=1.0, score="dot", extra_keys=zero, on_no_positive="skip"
        )
        return {"quickthoughts": loss}

    def _neighbours(self, batch: Batch) -> Tensor:
        """Who is near whom, 0 or 1: [B, B]."""
        place = batch["place"]
        apart = (place[:, None] - place).abs()
        # The same for all rows of a stretch without a gap: how many rows before them are not in the batch.
        missing = place - place.argsort().argsort()
        near = (apart > 0) & (apart <= self.context) & (missing[:, None] == missing)
        if "document" in batch:
            near &= batch["document"][:, None] == batch["document"]
        return near.float()

    def notes(self) -> list[str]:
        return [f"{self.followed:,} sentences are followed by another of their text"]

    def space(self) -> Space:
        return Space({"text": ConcatenatedText(self.encoder, self.second)})


def _towers(encoder: Encoder) -> tuple[Encoder, Encoder]:
    """f and g: those that an encoder of this method is made of, or the encoder and a second one of its shape."""
    if isinstance(encoder, ConcatenatedText) and len(encoder.parts) == 2:
        return cast(tuple[Encoder, Encoder], tuple(encoder.parts))
    second = copy.deepcopy(encoder)
    if isinstance(second, RecurrentText | TransformerText) and not encoder.pretrained:
        second.reset()
    return encoder, second
