"""SG-BERT: the layers of a frozen copy guide the sentence vector of the encoder in training."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.kinds import Text
from nearfar.encoders.text import TransformerText
from nearfar.errors import check_between
from nearfar.heads.pool import pool
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce, nt_xent, weight_distance
from nearfar.space import Space
from nearfar.training.teacher import FrozenTeacher


class SGBERT(Method):
    """A text's vector is near what every layer of a frozen copy of the encoder says of it. No augmentation.

        c_i = f(CLS of the encoder in training),  h_ik = f(mean over the tokens of layer k of the copy)
        loss = 1 / (B L) sum_i sum_k -log exp(c_i.h_ik / t) / (exp(c_i.h_ik / t) + sum_{m != i} sum_n exp(c_i.h_mn / t))
               + w sum |weights - weights of the copy|^2

    over B texts and all L layers, the embedding layer included; unit rows, one head f (two wide layers with GELU)
    for both. Each layer is a positive of its own, and meets all layers of all other texts. The copy is in
    evaluation mode and never learns; the embedding layer of the encoder stays as it is. The head is for training
    only. `form` keeps the paper's steps towards this loss, with ONE layer a text, drawn anew in every batch:

        sg     NT-Xent over all 2B rows c and h
        opt1   only c as anchors: -log of c_i.h_i among all h and the other c
        opt2   without the other c: -log of c_i.h_i among all h
        sg-opt the loss above

    sg and opt2 are as the paper has them: in the release the one does not run, and the other loses one more key.
    The paper's third way to pool a layer, the sum, is not offered. In the release, Adam has betas (0.9, 0.9) and no
    weight decay (here (0.9, 0.999) and `weight_decay`, 0.01 unless it is set), and `fit` puts the copy back into
    training mode, so that its layers come under dropout; here it has none, as in the paper. The embedding layer of
    the encoder that is given is frozen for good: whoever trains it further must let it learn again.

    Args:
        temperature: t.
        distance_weight: w, of the SUM over all weights.
        form: see above.
        layer_pooling: of the copy's layers, without padding.
        width: of both layers of f.
        pooling: c, before f; "own" keeps what the encoder's folder names, and is "cls" where it names none.

    Kim, Yoo, Lee. "Self-Guided Contrastive Learning for BERT Sentence Representations." ACL 2021.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        temperature: float = 0.01,
        distance_weight: float = 0.1,
        form: Literal["sg-opt", "sg", "opt1", "opt2"] = "sg-opt",
        layer_pooling: Literal["mean", "max"] = "mean",
        width: int = 4096,
        pooling: Literal["own", "cls", "mean"] = "own",
    ) -> None:
        super().__init__()
        check_between(1e-4, math.inf, temperature=temperature)
        check_between(0, math.inf, distance_weight=distance_weight)
        check_between(1, math.inf, width=width)
        encoder.choose_pooling(pooling)
        encoder.normalise = False  # the head sees states at their own scale, as those of the copy
        self.encoder = encoder
        self.guide = FrozenTeacher(encoder)
        self.head = Projection(encoder.dim, width, width, kind="gelu_wide")
        self.temperature, self.distance_weight = temperature, distance_weight
        self.form, self.layer_pooling = form, layer_pooling
        below = getattr(encoder.trunk, "embeddings", None)
        (below if isinstance(below, nn.Module) else encoder.model.get_input_embeddings()).requires_grad_(
            False
        )

    def negatives(self, batch_size: int) -> int:
        layers = int(self.encoder.model.config.num_hidden_layers) + 1
        return (batch_size - 1) * {"sg-opt": layers, "opt2": 1}.get(self.form, 2)

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        batch = super().prepare(rows, generator)
        if self.form != "sg-opt":
            batch["layer"] = torch.rand(len(rows["text"]), generator=generator)
        return batch

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        seen = self.guide(batch["text"], layers=True)
        layers = torch.stack([pool(states, seen.mask, self.layer_pooling) for states in seen.layers], dim=1)
        if "layer" in batch:
            drawn = (batch["layer"] * layers.shape[1]).long()
            layers = layers[torch.arange(len(layers), device=drawn.device), drawn]
        return {"one": self.head(self.encoder(batch["text"]).pooled), "layers": self.head(layers)}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, layers, t = z["one"], z["layers"], self.temperature
        rows = torch.arange(len(one), device=one.device)
        if self.form == "sg-opt":
            near = Pairing.same(rows, rows.repeat_interleave(layers.shape[1]))
            loss = info_nce(one, layers.flatten(0, 1), near, temperature=t, denominator="own")
        elif self.form == "sg":
            loss = nt_xent(one, layers, temperature=t)
        elif self.form == "opt1":
            others = Pairing.none().ignoring(rows)
            loss = info_nce(one, layers, temperature=t, extra_keys=one, extra_pairing=others)
        else:
            loss = info_nce(one, layers, temperature=t)
        terms = {"info_nce": loss}
        if self.distance_weight:
            moved = weight_distance(self.encoder.parameters(), self.guide.parameters())
            terms["weight distance"] = self.distance_weight * moved
        return terms

    def space(self) -> Space:
        return Space({"text": self.encoder})
