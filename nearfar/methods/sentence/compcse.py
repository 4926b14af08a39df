"""CompCSE: a text is near to what its two parts compose to."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.encoders.lengths import parts_read
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.views.split_text import split_text
from nearfar.views.text import encode_together, prepare_together


class CompCSE(Method):
    """A text is near the composition of its two halves, and far from that of every other text.

        r, r_a, r_b = f(x), f(a), f(b)        x = a + b; one pass of 3B rows, each its own dropout mask; [B, d]
        z = h(r)_{1..d0},    z' = h(compose(r_a, r_b))_{1..d0},    h(r) = tanh(W r + b)            [B, d0]
        loss_i = -log exp(cos(z_i, z'_i) / t) / sum_j exp(cos(z_i, z'_j) / t)

    Composed before the head, and only the first d0 coordinates of the head's output are compared. Rows only. The
    head is for training; the space is f, all d coordinates of it.

    The paper cuts paragraphs in two by a discourse parser, and keeps those whose halves differ by less than half the
    longer one in length; it adds shorter stretches of the same paragraphs as texts of their own, which are hard
    negatives. Here texts are cut as `split` says by the same rule of balance (ours), and none are added. A text
    that cannot be cut is both of its parts: its positive is the composition of two of its dropout twins. Of a
    text longer than the encoder reads, only what is read is cut. The release's `max` fails; here it is the
    larger of each two coordinates.

    Args:
        temperature: t.
        compose: "avg" 1/2 (r_a + r_b), the paper's for BERT; "max" by coordinate; "cat_first_last" the first half of
            r_a and the last of r_b, the paper's for RoBERTa.
        compared: d0; an encoder with no more coordinates is compared by all. The paper's for BERT-base, d = 768.
        split: "clauses" by punctuation and English conjunctions; "parse" by a parser of English (extra `parse`);
            "middle" and "random" between any words.
        pooling: f, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder names, and
            is the paper's "cls" where it names none.

    Chanchani, Huang. "Composition-contrastive Learning for Sentence Embeddings." ACL 2023.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        temperature: float = 0.05,
        compose: Literal["avg", "max", "cat_first_last"] = "avg",
        compared: int = 256,
        split: Literal["clauses", "parse", "middle", "random"] = "clauses",
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(1, math.inf, compared=compared)
        if compose == "cat_first_last" and encoder.dim % 2:
            raise ArgumentError(
                f"compose='cat_first_last' needs an even width, the encoder has {encoder.dim}"
            )
        encoder.choose_pooling(pooling)
        encoder.normalise = False  # parts are composed at their own scale, as in the paper
        self.encoder, self.head = encoder, Projection(encoder.dim, encoder.dim, kind="tanh")
        self.temperature, self.compose, self.compared = temperature, compose, min(compared, encoder.dim)
        self.split = split
        # Texts that could not be cut, and all that were read; kept for what a run's card tells.
        self.register_buffer("texts", torch.zeros(2, dtype=torch.int64))

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        read = parts_read(self.encoder, rows["text"])
        cuts = [split_text(text, self.split, generator) for text in read]
        parts = [cut or (text, text) for text, cut in zip(read, cuts, strict=True)]
        left, right = zip(*parts, strict=True)
        uncut = torch.tensor([int(cut is None) for cut in cuts])
        return {"text": prepare_together(self.encoder, rows["text"], left, right), "uncut": uncut}

    def composed(self, left: Tensor, right: Tensor) -> Tensor:
        """What two parts [B, d] each compose to: [B, d]."""
        if self.compose == "avg":
            return (left + right) / 2
        if self.compose == "max":
            return torch.maximum(left, right)
        half = left.shape[1] // 2
        return torch.cat([left[:, :half], right[:, half:]], dim=1)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        text, left, right = (part.pooled for part in encode_together(self.encoder, batch["text"]))
        states = {"text": text, "composed": self.composed(left, right)}
        return {name: self.head(state)[:, : self.compared] for name, state in states.items()}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        self.get_buffer("texts")[0] += batch["uncut"].sum()
        self.get_buffer("texts")[1] += len(batch["uncut"])
        return {"info_nce": info_nce(z["text"], z["composed"], temperature=self.temperature)}

    def notes(self) -> list[str]:
        uncut, read = self.get_buffer("texts").tolist()
        told = f"{uncut:,} of {read:,} texts read could not be cut by {self.split!r} into balanced parts"
        return [f"{told}: each was both of its parts"] if uncut else []

    def space(self) -> Space:
        return Space({"text": self.encoder})
