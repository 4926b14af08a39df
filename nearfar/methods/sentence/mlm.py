"""Masked language modelling: the honest starting point of the sentence methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.language import MLMHead
from nearfar.method import Batch, Method
from nearfar.space import Space
from nearfar.views.token_masks import IGNORED, mask_tokens


class MLM(Method):
    """Predict hidden words from those around them. No contrast: the plain language model that others start from.

        loss = - mean over hidden positions of log p(word | the text with hidden words)

    Args:
        share: of the tokens that are chosen; 80% of them are masked, 10% replaced, 10% kept.

    Devlin, Chang, Lee, Toutanova. "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding." NAACL 2019.
    """

    reads = {"text": Text}

    def __init__(self, encoder: TransformerText, share: float = 0.15) -> None:
        super().__init__()
        check_between(0, 1, share=share)
        if encoder.tokenizer.mask_token_id is None:
            raise ArgumentError("mlm needs an encoder whose tokenizer has a mask token")
        self.encoder, self.share = encoder, share
        self.head = MLMHead(encoder.dim, encoder.model.get_input_embeddings().num_embeddings)
        self._special = torch.tensor(sorted(encoder.tokenizer.all_special_ids))

    def negatives(self, batch_size: int) -> int:
        return 0

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        inputs = self.encoder.prepare(rows["text"])
        hidden, labels = mask_tokens(
            inputs["ids"],
            inputs["mask"] & ~torch.isin(inputs["ids"], self._special),
            share=self.share,
            mask_id=self.encoder.tokenizer.mask_token_id,
            vocabulary=len(self.head.bias),
            generator=generator,
        )
        return {"text": {**inputs, "ids": hidden}, "labels": labels}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        chosen = batch["labels"] != IGNORED
        if not bool(chosen.any()):  # very short texts: nothing was drawn in the whole batch
            return {"mlm": self.head.bias.sum() * 0}
        states = self.encoder(batch["text"]).tokens[chosen]
        logits = self.head(states, self.encoder.model.get_input_embeddings().weight)
        return {"mlm": functional.cross_entropy(logits, batch["labels"][chosen])}

    def space(self) -> Space:
        return Space({"text": self.encoder})
