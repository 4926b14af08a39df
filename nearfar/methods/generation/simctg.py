"""SimCTG: a language model whose token states stay apart, so that contrastive search works on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.causal import CausalText
from nearfar.errors import check_between
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.method import Batch, Method
from nearfar.objectives import token_contrast
from nearfar.space import Space

IGNORED = -100


class SimCTG(Method):
    """Predict the next token, and keep the states of a text's tokens apart from each other.

        loss = mean_t -log p(x_t | x_<t) + mean over i != j of [m - cos(h_i, h_i) + cos(h_i, h_j)]_+

    h: [L, d] are the last states, after the last norm, of the tokens x_1 ... x_{L-1} that are read; both means
    are over all tokens (ordered pairs of tokens within a text) of the batch, so long texts weigh more. A text is a
    row of the table, cut to the encoder's max_length (the paper's 256); nothing is padded into either mean,
    whatever number the padding has. Small changes to a trained model are meant: the paper's rate is 2e-5 with
    warm-up over a tenth of 40,000 steps of 128 texts. Ours: a text that was not cut is followed by the end token,
    which is predicted but never contrasted, so that the model learns to stop.

    The space keeps k and alpha for `nearfar generate`, which continues texts by contrastive search. The paper's
    diverse variant, which samples the first tokens, is not offered.

    Args:
        margin: m; 0 leaves the plain language model loss, bit for bit.
        k: candidates of a step when texts are continued.
        alpha: weight of the degeneration penalty when texts are continued, in [0, 1].

    Su, Lan, Wang, Yogatama, Kong, Collier. "A Contrastive Framework for Neural Text Generation." NeurIPS 2022.
    """

    reads = {"text": Text}

    def __init__(self, encoder: CausalText, margin: float = 0.5, k: int = 8, alpha: float = 0.6) -> None:
        super().__init__()
        check_between(0, 2, margin=margin)
        self.encoder, self.margin = encoder, margin
        self.decoder = ContrastiveDecoding(k, alpha)

    def negatives(self, batch_size: int) -> int:
        return 0

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        return {"text": self.encoder.prepare_ended(rows["text"])}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        ids, mask = batch["text"]["ids"], batch["text"]["mask"]
        states, logits = self.encoder.predict(batch["text"])
        following = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
        return self.terms(states[-1], logits, functional.pad(following, (0, 1), value=IGNORED))

    def terms(self, states: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss from states [B, L, d] and logits [B, L, V] of what was read.

        `labels` [B, L] are the tokens that come next, `IGNORED` where nothing was read.
        """
        read = labels != IGNORED
        mle = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return {
            "mle": mle / read.sum().clamp(min=1),
            "contrast": token_contrast(states, read, self.margin),
        }

    def space(self) -> Space:
        return Space({"text": self.encoder}, parts={"decoder": self.decoder})
