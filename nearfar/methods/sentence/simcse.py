"""SimCSE: contrastive sentence embeddings from dropout alone, or from pairs and triplets."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from nearfar.data.checks import require_positives
from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.space import Space
from nearfar.views.text import dropout_twins


class SimCSE(Method):
    """Two dropout masks of one sentence are near; every other sentence is far.

    Unsupervised, from a column of texts:

        loss_i = -log exp(cos(z_i, z'_i) / t) / sum_j exp(cos(z_i, z'_j) / t)        z, z': [B, d]

    z and z' come from ONE forward pass over 2B rows in training mode. Supervised, from pairs (text,
    positive) or triplets (text, positive, negative), such as (premise, entailed, contradicted):

        loss_i = -log exp(cos(z_i, z+_i) / t)
                      / sum_j [exp(cos(z_i, z+_j) / t) + w_ij exp(cos(z_i, z-_j) / t)]

    with w_ij = exp(a) for i = j (the hard negative of the row itself) and 1 elsewhere. Rows only: no
    symmetric term, no negatives from the same view. z = tanh(W h + b) of the pooled states h. Without
    pairs the head is for training only; with pairs it stays, as in the paper. The optional masked
    language modelling term of the paper is not offered.

    Args:
        temperature: t.
        hard_negative_log_weight: a, the LOGARITHM of the weight of the row's own negative.
        pooling: h, one of the encoder's pooling kinds; "own" keeps the pooling that the encoder's folder
            names, and is the paper's "cls" where it names none.
        head: "tanh" as in the paper; "none" embeds with the pooled states themselves, which keeps what an
            encoder already fitted to similarity knows (ours).

    Gao, Yao, Chen. "SimCSE: Simple Contrastive Learning of Sentence Embeddings." EMNLP 2021.
    """

    reads = {"text": Text, "positive": Text | None, "negative": Text | None}

    def __init__(
        self,
        encoder: TransformerText,
        temperature: float = 0.05,
        hard_negative_log_weight: float = 0.0,
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
        head: Literal["tanh", "none"] = "tanh",
    ) -> None:
        super().__init__()
        encoder.choose_pooling(pooling)
        self.encoder = encoder
        self.head = None
        if head == "tanh":
            encoder.normalise = False  # the head sees the states at their own scale, as in the paper
            self.head = Projection(encoder.dim, encoder.dim, kind="tanh")
        self.temperature = temperature
        self.hard_negative_log_weight = hard_negative_log_weight
        # Saved with a checkpoint, so that a resumed run knows whether its head stays.
        self.register_buffer("paired", torch.tensor(False))

    def begin(self, table: Table) -> None:
        require_positives(table)

    def _z(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._headed(self.encoder(inputs).pooled)

    def _headed(self, pooled: Tensor) -> Tensor:
        return pooled if self.head is None else self.head(pooled)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        self.get_buffer("paired").fill_("positive" in batch)
        if "positive" not in batch:
            one, two = dropout_twins(self.encoder, batch["text"])
            return {"one": self._headed(one.pooled), "two": self._headed(two.pooled)}
        z = {"one": self._z(batch["text"]), "two": self._z(batch["positive"])}
        if "negative" in batch:
            z["negative"] = self._z(batch["negative"])
        return z

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        extra: dict[str, Any] = {}
        if "negative" in z:
            hard = Pairing.none().log_weighted_diagonal(self.hard_negative_log_weight)
            extra = {"extra_keys": z["negative"], "extra_pairing": hard}
        return {"info_nce": info_nce(z["one"], z["two"], temperature=self.temperature, **extra)}

    def space(self) -> Space:
        keep = self.head is not None and bool(self.get_buffer("paired"))
        return Space({"text": self.encoder}, {"text": self.head} if keep and self.head is not None else {})
