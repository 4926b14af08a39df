"""MERU: texts near the root of hyperbolic space, the pictures that they entail further out."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

from torch import Tensor, nn

from nearfar.data.kinds import Image, Text
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.towers import linear_towers
from nearfar.errors import check_between
from nearfar.geometry import lorentz_exp0, negative_lorentz_distance
from nearfar.heads.lorentz import LorentzHead
from nearfar.heads.projection import Projection
from nearfar.heads.scalars import PositiveScalar
from nearfar.method import Batch, Method
from nearfar.objectives import Temperature, cone_entailment, info_nce
from nearfar.space import Space


class MERU(Method):
    """Pictures and texts are points of hyperbolic space; a text is near its picture, and entails it.

        x = exp_0(a v)                          v: a tower's output, never normalised [B, d]; a learned per tower
        loss = 1/2 [ CE(-D s) + CE(-D^T s) ] + w mean_i max(0, phi(txt_i, img_i) - psi(txt_i))
        D[i,j] = arccosh(-c <img_i, txt_j>_L) / sqrt(c)                               s = 1/t = exp(nu) <= 100

    phi is the exterior angle and psi half the aperture of the cone at the text, with K = 0.1
    (`nearfar.geometry.cones`). a starts at 1/sqrt(d), so that |a v| starts near 1, and never exceeds 1; the
    curvature -c is learned within a factor of 10. All behind the towers is computed in float32. The space that
    stays is scaled to curvature -1, which keeps the order of distances: `LorentzHead`.

    As released, but for the heads: linear with a bias, as those of the baseline CLIP here.

    Args:
        dim: d, width of the shared space.
        temperature: t at the start.
        curvature: c at the start.
        entailment: w, weight of the cones.

    Desai, Nickel, Rajpurohit, Johnson, Vedantam. "Hyperbolic Image-Text Representations." ICML 2023.
    """

    reads = {"image": Image, "text": Text}

    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        dim: int = 512,
        temperature: float = 0.07,
        curvature: float = 1.0,
        entailment: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(0, math.inf, entailment=entailment)
        self.towers = linear_towers({"image": image, "text": text}, dim)
        self.alpha = nn.ModuleDict(
            {name: PositiveScalar(dim**-0.5, maximum=1.0) for name in self.towers.heads}
        )
        self.curvature = PositiveScalar(curvature, minimum=curvature / 10, maximum=curvature * 10)
        self.temperature = Temperature("exp", temperature, minimum=0.01)
        self.entailment = entailment

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        c = self.curvature()
        return {
            # In half precision sinh and the inner products of far points keep no digits.
            name: lorentz_exp0(v.float() * self.alpha[name](), c)
            for name, v in self.towers.embed(batch).items()
        }

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        c = self.curvature()
        near = partial(negative_lorentz_distance, curvature=c)
        return {
            "info_nce": info_nce(
                z["image"], z["text"], temperature=self.temperature(), symmetric=True, score=near
            ),
            "entailment": self.entailment * cone_entailment(z["text"], z["image"], c),
        }

    def space(self) -> Space:
        encoders, projections = self.towers.parts()
        c = self.curvature()
        heads = {
            name: LorentzHead.of(cast(Projection, projection), self.alpha[name](), c)
            for name, projection in projections.items()
        }
        return Space(encoders, heads, geometry="lorentz")
