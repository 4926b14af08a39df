"""Masked language modelling: the honest starting point of the sentence methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.encoders.masked import MaskedText
from nearfar.errors import check_between
from nearfar.method import Batch, Method
from nearfar.space import Space
from nearfar.views.token_masks import hide_tokens


class MLM(Method):
    """Predict hidden words from those around them. No contrast: the plain language model that others start from.

        loss = - mean over hidden positions of log p(word | the text with hidden words)

    Args:
        share: of the tokens that are chosen; 80% of them are masked, 10% replaced, 10% kept.

    Devlin, Chang, Lee, Toutanova. "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding." NAACL 2019.
    """

    reads = {"text": Text}

    def __init__(self, encoder: MaskedText, share: float = 0.15) -> None:
        super().__init__()
        check_between(0, 1, share=share)
        self.encoder, self.share = encoder, share
        encoder.head_is_trained = True  # once it has been through this

    def negatives(self, batch_size: int) -> int:
        return 0

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        inputs, labels = hide_tokens(self.encoder, self.encoder.prepare(rows["text"]), self.share, generator)
        return {"text": inputs, "labels": labels}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"mlm": self.encoder.recovery(self.encoder(batch["text"]).tokens, batch["labels"])}

    def space(self) -> Space:
        return Space({"text": self.encoder})
