"""CSR: sparse codes of frozen embeddings, instead of shorter dense ones."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.data.kinds import Image, Text, Vector
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.given import GivenVectors
from nearfar.encoders.vector import MLPVector
from nearfar.errors import check_between
from nearfar.heads.sparse import TopKSparseCoder
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, info_nce
from nearfar.objectives.reconstruction import normalised_mse
from nearfar.space import Space

WORTH_SAYING = 0.1
"""Share of dead latents from which the end of a training run speaks of them."""


class CSR(Method):
    """Frozen embeddings become codes with k entries, rebuilt from them and spread out or paired.

        a = W (x - b_pre) + b_lat,    z_k = relu(TopK_k(a)),    x_k = W^T z_k + b_pre
        loss = MSE(x, x_k) + 1/8 MSE(x, x_4k) + revival nMSE(x_dead, x - stop(x_k) + stop(b_pre)) + contrast L
        L = mean log(1 + 2 sum over j != i of exp((z_i.z_j - 1) / t))      one column; unit codes z_k [B, h]
        L = CE(z z+^T / t), rows only                                      with the column `positive`

    The encoder is frozen; only W (tied) and the two biases learn. x_dead is rebuilt from the `revived` best of
    the latents that no code has used lately. With one column L has no positive: the code meets itself, at
    cosine 1, so that L only pushes different rows apart. With pairs it is one-directional, and the other terms
    are averaged over both columns. Every pass through TopK (two a column, and a third for the twin without
    pairs) counts for `dead_after`, as in the official code.

    The first terms are as large as the features squared, L is not: rows of unit length want to be multiplied by
    sqrt(d) first, or a lower `contrast`. A column `vector` is taken as it is. Texts and pictures are encoded by
    an encoder that should be trained already: one from scratch stays as random as it began.

    Args:
        latents: h; 0 takes four times the width of the embeddings.
        k: entries of a code.
        revived: dead latents that one row may call on.
        dead_after: passes without use after which a latent is dead.
        revival: weight of the term for dead latents; 0 turns it off.
        contrast: weight of L; 0 turns it off.
        temperature: t.

    Wen, Wang, Zeng, Peng, Su, Liu, Chen, Liu, Jegelka, You. "Beyond Matryoshka: Revisiting Sparse Coding for
    Adaptive Representation." ICML 2025.
    """

    reads = {
        "vector": Vector | None,
        "text": Text | None,
        "image": Image | None,
        "positive": Vector | Text | Image | None,
    }

    def __init__(
        self,
        encoder: Encoder,
        latents: int = 0,
        k: int = 8,
        revived: int = 512,
        dead_after: int = 30,
        revival: float = 0.03125,
        contrast: float = 0.1,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(1, math.inf, revived=revived)
        check_between(0, math.inf, revival=revival, contrast=contrast)
        if isinstance(encoder, MLPVector) and not encoder.pretrained:
            encoder = GivenVectors(encoder.width)  # random layers would only blur what the vectors say
        self.encoder = encoder.requires_grad_(False).eval()
        self.example = encoder.kind.name
        self.head = TopKSparseCoder(encoder.dim, latents or 4 * encoder.dim, k=k, dead_after=dead_after)
        self.revived, self.revival, self.contrast_weight = revived, revival, contrast
        self.temperature = temperature

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the frozen encoder, whose dropout stays off."""
        super().train(mode)
        self.encoder.eval()
        return self

    def negatives(self, batch_size: int) -> int:
        return 0

    def prepare(self, rows: dict[str, list[object]], generator: torch.Generator) -> Batch:
        return {role: self._prepare_cells(rows[role]) for role in (self.example, "positive") if role in rows}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z: dict[str, Tensor] = {}
        for role, inputs in batch.items():
            with torch.no_grad():
                features = self.encoder(inputs).pooled
            z |= {f"{role} features": features, f"{role} activations": self.head.activations(features)}
        return z

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        sides = [role for role in (self.example, "positive") if f"{role} features" in z]
        codes, parts = [], []
        for role in sides:
            code, terms = self._rebuilt(z[f"{role} features"].detach(), z[f"{role} activations"])
            codes.append(code)
            parts.append(terms)
        terms = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        if len(codes) == 1:
            self._count(codes[0])  # the twin's pass
        if self.contrast_weight:
            terms["contrast"] = self.contrast_weight * self._contrastive(codes)
        return terms

    def _rebuilt(self, x: Tensor, activations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The code of one column and its terms of reconstruction, in the order of the official passes."""
        code = self.head.select(activations)
        self._count(code)
        rebuilt = self.head.decode(code)
        terms = {"rebuilt": functional.mse_loss(rebuilt, x)}
        if self.revival:
            dead = self.head.decode(self.head.select_dead(activations, self.revived))
            missing = x - rebuilt.detach() + self.head.pre_bias.detach()
            terms["revival"] = self.revival * normalised_mse(dead, missing)
        longer = self.head.select(activations, 4 * self.head.k)
        self._count(longer)
        terms["rebuilt from 4k"] = functional.mse_loss(self.head.decode(longer), x) / 8
        return code, terms

    def _count(self, codes: Tensor) -> None:
        if self.training:
            self.head.count(codes)

    def _contrastive(self, codes: list[Tensor]) -> Tensor:
        # Scaled here and compared by dot products: a code without any entry stays zero and meets all at 0.
        one, *two = (functional.normalize(code, dim=-1) for code in codes)
        if two:
            return info_nce(one, two[0], temperature=self.temperature, score="dot")
        # NT-Xent of a row and its equal twin: every other row stands there twice, so the twin weighs a half.
        half = Pairing.diagonal().log_weighted_diagonal(-math.log(2))
        return info_nce(one, one, half, temperature=self.temperature, score="dot") + math.log(2)

    def notes(self) -> list[str]:
        dead = float(self.head.dead.float().mean())
        if dead <= WORTH_SAYING:
            return []
        return [
            f"{dead:.0%} of the {self.head.dims[1]:,} latents are dead: no code of the last {self.head.dead_after} "
            "passes uses them, and they are stored for nothing. Use fewer latents, a larger k, or a larger weight of "
            "revival"
        ]

    def space(self) -> Space:
        return Space({self.example: self.encoder}, {self.example: self.head})
