"""SetCSE: sets of example sentences are pushed apart, so that a corpus can be asked in operations on sets."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from nearfar.data.kinds import Label, Text
from nearfar.encoders.encoder import Encoder
from nearfar.method import Batch, Method
from nearfar.objectives import set_repulsion, sup_con
from nearfar.space import Space


class SetCSE(Method):
    """Sentences of different example sets are far; nothing is near.

    Reads sentences and, as label, the set that each is of. With h the encoder under dropout:

        loss = sum_i log sum_{x in S_i} sum_{y not in S_i} exp(cos(h(x), h(y)) / t)

    Fit it on the sets of the queries to come, from an encoder that is good already (such as one of simcse's),
    then ask: `nearfar search SPACE TABLE "near A and B without C" --set A=a.txt ...` (`nearfar.search.sets`). The
    paper's steps take all rows at once: let the batch size be the number of rows. There is no head.

    Nothing keeps a set together. In a long run each set loses its inner structure, and the space what it knew of
    other things: few steps are enough. The loss, its temperature and a paper's run of about 60 steps at 2e-5 with
    20 sentences a set are reconstructed from memory.

    Args:
        temperature: t.
        objective: "repulsion", as above; "sup_con", supervised contrast of the same sets, which also pulls each
            one together (Khosla et al., NeurIPS 2020; the baseline, not the paper's).

    Liu. "SetCSE: Set Operations using Contrastive Learning of Sentence Embeddings." ICLR 2024.
    """

    reads = {"text": Text, "label": Label}

    def __init__(
        self,
        encoder: Encoder,
        temperature: float = 0.05,
        objective: Literal["repulsion", "sup_con"] = "repulsion",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature, self.objective = temperature, objective

    def negatives(self, batch_size: int) -> int:
        return 0 if self.objective == "repulsion" else super().negatives(batch_size)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"text": self.encoder(batch["text"]).pooled}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        rows, sets = z["text"], batch["label"]
        if self.objective == "repulsion":
            return {"set_repulsion": set_repulsion(rows, sets, temperature=self.temperature)}
        return {"sup_con": sup_con(rows, sets, temperature=self.temperature, on_no_positive="skip")}

    def space(self) -> Space:
        return Space({"text": self.encoder})
