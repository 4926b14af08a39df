"""DiffCSE: vectors that dropout does not move and that tell which words of an edited copy were replaced."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.taps import first_place
from nearfar.errors import check_between
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.training.gather import gather
from nearfar.training.teacher import snapshot
from nearfar.views.text import dropout_twins
from nearfar.views.token_masks import hide_tokens, replace_tokens


class DiffCSE(Method):
    """SimCSE, and a discriminator that finds replaced words with the help of the sentence's vector.

        h = P(f(x)),   h' = P(f(x)) under another dropout mask                            h, h': [B, d]
        L_c = -mean_i log exp(cos(h_i, h'_i) / t) / sum_j exp(cos(h_i, h'_j) / t)
        x~ = x with words hidden        x'' = what a frozen generator G reads in x~, at every position but the first
        L_r = mean over all positions l of CE(D(x'', h)_l, [x''_l is not x_l])            D: [2B, L, 2]
        L = L_c + w L_r

    P = norm(W2 relu(norm(W1 .))) with batch norms over the 2B rows of one pass (the last without affine); it is for
    training only. Each of the two copies is hidden by itself and judged under its own h. D is a second encoder, which
    starts as a copy of f and learns, with a linear map of two classes on its states; h stands in the first place of
    what its embedding layer gives, and only through it does L_r move f. Whether a word was replaced is told by
    comparing tokens: G changes some that were not hidden and restores some that were. Padding counts, as not
    replaced, as in the release; without it the weight w would mean more. Of several processes each norms its own rows
    and pads to its own longest text; all else is as in one process with the whole batch.

    G is a frozen copy of the encoder as it was given, with its head over the vocabulary, which must be trained. The
    paper has a smaller model instead (DistilBERT for BERT). The paper draws from G, the release takes the likeliest
    word. The paper's weights are w = 0.005 with 30% hidden for similarity; for classification they are 0.05 and 15%
    (reconstruction).

    Args:
        temperature: t.
        share: of the words that are hidden; 80% of them are masked, 10% replaced at random, 10% kept.
        weight: w.
        edit: take the likeliest word of G ("argmax") or draw one ("sample").
        generator_dropout: whether G predicts under dropout while training, as in the release.
        pooling: of f, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder names,
            and is the paper's "cls" where it names none.

    Chuang, Dangovski, Luo, Zhang, Chang, Soljačić, Li, Yih, Kim, Glass. "DiffCSE: Difference-based Contrastive Learning
    for Sentence Embeddings." NAACL 2022.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: MaskedText,
        temperature: float = 0.05,
        share: float = 0.3,
        weight: float = 0.005,
        edit: Literal["argmax", "sample"] = "argmax",
        generator_dropout: bool = True,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(0, 1, share=share)
        check_between(0, math.inf, weight=weight)
        encoder.require_trained_head("diffcse")
        encoder.choose_pooling(pooling)
        encoder.normalise = False  # the head sees the states at their own scale
        self.encoder = encoder.plain()
        self.generator = snapshot(encoder)
        self.discriminator = copy.deepcopy(self.encoder)
        self.detect = nn.Linear(encoder.dim, 2)
        self.head = Projection(encoder.dim, 2 * encoder.dim, encoder.dim, kind="bn2")
        self.temperature, self.share, self.weight = temperature, share, weight
        self.edit, self.generator_dropout = edit, generator_dropout

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.generator.train(mode and self.generator_dropout)
        return self

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        inputs = self.encoder.prepare(rows["text"])
        one, two = (hide_tokens(self.generator, inputs, self.share, generator)[0]["ids"] for _ in range(2))
        return {"text": inputs, "hidden": one, "hidden_twin": two}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        states = torch.cat([twin.pooled for twin in dropout_twins(self.encoder, batch["text"])])
        self.watched = {"states": states.detach()}  # behind the batch norms a collapse could not be seen
        h = self.head(states)
        copies = {name: value.repeat(2, 1) for name, value in batch["text"].items()}
        ids, replaced = self.edited(copies, torch.cat([batch["hidden"], batch["hidden_twin"]]))
        logits = self.detected({**copies, "ids": ids}, h)
        lost = functional.cross_entropy(logits.transpose(1, 2), replaced.long(), reduction="none")
        one, two = (gather(half) for half in h.chunk(2))
        return {
            "info_nce": info_nce(one, two, temperature=self.temperature),
            "replaced": self.weight * gather(lost.mean(dim=1)).mean(),
        }

    def edited(self, inputs: dict[str, Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """x'' [B, L] of texts and of the same with words hidden [B, L]; True where it differs [B, L]."""
        where = inputs["mask"].clone()
        where[:, 0] = False
        return replace_tokens(self.generator, inputs, hidden, where, self.edit)

    def detected(self, inputs: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """Logits of kept and replaced [B, L, 2] for edited texts under vectors h [B, d]."""
        logits: Tensor = self.detect(self.discriminator(inputs, edit=first_place(vectors)).tokens)
        return logits

    def space(self) -> Space:
        return Space({"text": self.encoder})
