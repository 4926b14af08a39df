"""Contrastive search on a language model as it is, after an audit of its token space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearfar.data.kinds import Text
from nearfar.encoders.causal import CausalText
from nearfar.heads.decoding import ContrastiveDecoding
from nearfar.measures.language import layer_isotropy
from nearfar.method import Embed, Method
from nearfar.space import Space

if TYPE_CHECKING:
    from nearfar.data.table import Table


class ContrastiveSearch(Method):
    """Near: what the language model expects next. Far: what it has said already. Nothing is trained.

        next = argmax over the k most probable v of (1 - a) p(v | x_<t) - a max_{j < t} cos(h_v, h_j)
        isotropy = 1 - sum_x sum_{i != j} cos(h_i, h_j) / sum_x |x| (|x| - 1)

    h: states after the model's last norm; p: softmax over the whole vocabulary, not over the k. The penalty tells
    tokens apart only where they do not all point one way, so the table's texts are read to measure the isotropy
    of every layer (at most 2,000 texts, each cut to the encoder's max_length). The space keeps the model, k, a and
    the audit: `nearfar generate` continues prompts by it. With isotropy near 0 of the last layer (GPT-2's smaller
    models have 0.1 to 0.25 in the paper) train the model by simctg first.

    Args:
        k: candidates of a step; 1 is greedy search. The paper takes 3 to 5 by language, 5 for English.
        alpha: a, weight of the penalty, in [0, 1]; 0 is greedy search.

    Su, Collier. "Contrastive Search Is What You Need For Neural Text Generation." TMLR 2023.
    """

    reads = {"text": Text}

    def __init__(self, encoder: CausalText, k: int = 5, alpha: float = 0.6) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        ContrastiveDecoding(k, alpha)  # refuses wrong hyperparameters before anything is read
        self.k, self.alpha = k, alpha
        self.decoder: ContrastiveDecoding | None = None

    def solve(self, table: Table, embed: Embed) -> None:
        isotropy = layer_isotropy(self.encoder, table.column("text"))
        decoder = ContrastiveDecoding(self.k, self.alpha, len(isotropy))
        decoder.isotropy.copy_(torch.from_numpy(isotropy))
        self.decoder = decoder

    def notes(self) -> list[str]:
        if self.decoder is None:
            return []
        isotropy = self.decoder.isotropy
        return [
            f"token isotropy of the last layer {isotropy[-1]:.2f}, lowest {isotropy.min():.2f} in layer "
            f"{int(isotropy.argmin())} of {len(isotropy) - 1}"
        ]

    def space(self) -> Space:
        parts = {} if self.decoder is None else {"decoder": self.decoder}
        return Space({"text": self.encoder}, parts=parts)
