"""PromCSE: contrast by a deep soft prompt in a frozen language model, and a hinge on the hardest negative."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.data.checks import require_positives
from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.prefix import PrefixText
from nearfar.encoders.text import TransformerText
from nearfar.errors import check_between
from nearfar.geometry import cosine
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce, triplet_margin
from nearfar.space import Space
from nearfar.views.text import dropout_twins


class PromCSE(Method):
    """The language model stays as it is; only P keys and values in each of its layers, and a head, learn to contrast.

    Every layer attends to its part of the prompt besides the tokens, in training and ever after. With
    z = tanh(W h + b) of the pooled states h and z, z': [B, d] twins under dropout, from a column of texts:

        loss_i = -log exp(cos(z_i, z'_i) / t) / sum_j exp(cos(z_i, z'_j) / t)

    From pairs (text, positive) z' is the positive. From triplets (text, positive, negative) the denominator also has
    exp(cos(z_i, z-_j) / t) of all negatives, and a hinge on cosines without temperature is added:

        m_i = max( max_{j != i} cos(z_i, z+_j), max_j cos(z_i, z-_j) )
        hinge_i = w max(0, m + m_i - cos(z_i, z+_i))

    With pairs the head stays; without, it is for training only. The prompt learns at rates far above those of
    whole models: 3e-2 for BERT-base (1e-2 with triplets), in batches of 256. The release can also make its prompt
    by a small network, and adds masked language modelling for RoBERTa; neither is offered. The weights of the
    encoder that is given are frozen for good: whoever trains it further must let them learn again.

    Args:
        prompt_length: P; the paper has 10 to 16, by model. Texts are cut to the positions that it leaves.
        temperature: t.
        hinge_weight: w; 0 leaves the hinge out.
        hinge_margin: m, of cosines.
        pooling: h, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is the paper's "cls" where it names none.

    Jiang, Zhang, Wang. "Improved Universal Sentence Embeddings with Prompt-based Contrastive Learning and
    Energy-based Learning." EMNLP Findings 2022.
    """

    reads = {"text": Text, "positive": Text | None, "negative": Text | None}

    def __init__(
        self,
        encoder: TransformerText,
        prompt_length: int = 16,
        temperature: float = 0.05,
        hinge_weight: float = 10.0,
        hinge_margin: float = 0.2,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(1, 512, prompt_length=prompt_length)
        check_between(1e-4, 100, temperature=temperature)
        check_between(0, 1e6, hinge_weight=hinge_weight)
        check_between(-2, 2, hinge_margin=hinge_margin)
        encoder.choose_pooling(pooling)
        self.encoder = PrefixText.around(encoder, prompt_length)
        # Prompt and head want the higher default rate, also where training goes on with a prompt that was saved.
        self.encoder.pretrained = False
        self.encoder.model.requires_grad_(False)
        self.encoder.normalise = False  # the head sees the states at their own scale
        self.head = Projection(encoder.dim, encoder.dim, kind="tanh")
        self.temperature, self.hinge_weight, self.hinge_margin = temperature, hinge_weight, hinge_margin
        self.register_buffer("head_stays", torch.tensor(False))  # a resumed run must know

    def negatives(self, batch_size: int) -> int:
        return 0  # the sum with the hinge compares with nothing

    def begin(self, table: Table) -> None:
        require_positives(table)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        self.get_buffer("head_stays").fill_("positive" in batch)
        if "positive" in batch:
            seen = {role: self.encoder(batch[role]) for role in self.reads if role in batch}
        else:
            seen = dict(zip(("text", "positive"), dropout_twins(self.encoder, batch["text"]), strict=True))
        return {role: self.head(features.pooled) for role, features in seen.items()}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        hard = z.get("negative")
        terms = {
            "info_nce": info_nce(z["text"], z["positive"], temperature=self.temperature, extra_keys=hard)
        }
        if hard is not None and self.hinge_weight:
            far = cosine(z["text"], torch.cat([z["positive"], hard]))
            near = far.diagonal()
            own = torch.eye(*far.shape, dtype=torch.bool, device=far.device)
            far = far.masked_fill(own, -torch.inf)
            hinge = triplet_margin(near, far, self.hinge_margin, mining="hardest")
            terms["hinge"] = self.hinge_weight * hinge
        return terms

    def space(self) -> Space:
        heads = {"text": self.head} if self.get_buffer("head_stays") else {}
        return Space({"text": self.encoder}, heads)
