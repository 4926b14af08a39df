"""Inputs of unknown classes, found from the features of any encoder by whitened discriminants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nearfar.data.checks import require_labels
from nearfar.data.kinds import Image, Label, Text, Vector
from nearfar.encoders.encoder import Encoder
from nearfar.heads.discriminant import WhitenedDiscriminant
from nearfar.method import Embed, Method
from nearfar.space import Space

if TYPE_CHECKING:
    from nearfar.data.table import Table


class WDiscOOD(Method):
    """Near: what lies close to a class and inside what all classes share. Everything else is foreign.

        z = Sigma_w^(-1/2) x,  G = the N_D directions of largest Fisher ratio of z,  H = what G leaves out
        score = - ( min_c || G (z - mu_c) || + w || H (z - mu) ||)              higher is more at home

    Nothing is trained: the encoder stays as it is, features of the training rows [N, D] and their C classes
    give the detector in closed form (see `WhitenedDiscriminant`). `nearfar detect` scores new rows by it.
    It is no better than its encoder: give one that has learned the classes or the domain. The defaults are
    the paper's for ResNet-50; w is 1 for ViT-B, features are normalised for SupCon and ViT-B. Ours: at most
    C - 1 directions are taken (S_b has no more; the paper takes 1,000 of 1,000 classes), shrinkage.

    Args:
        directions: N_D, discriminants of the first distance; at most C - 1 and D are taken.
        residual_weight: w.
        normalize: scale features to unit length first; the space then compares by cosine.
        shrinkage: share of an isotropic covariance mixed into Sigma_w, for few rows a dimension.

    Chen, Lin, Xu, Vela. "WDiscOOD: Out-of-Distribution Detection via Whitened Linear Discriminant
    Analysis." ICCV 2023.
    """

    reads = {"image": Image | None, "text": Text | None, "vector": Vector | None, "label": Label}

    def __init__(
        self,
        encoder: Encoder,
        directions: int = 1000,
        residual_weight: float = 5.0,
        normalize: bool = False,
        shrinkage: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.example = encoder.kind.name
        self.directions, self.residual_weight = directions, residual_weight
        self.normalize, self.shrinkage = normalize, shrinkage
        self.detector: WhitenedDiscriminant | None = None
        self._made(2)  # refuses wrong hyperparameters before anything is encoded

    def _made(self, classes: int) -> WhitenedDiscriminant:
        return WhitenedDiscriminant(
            self.encoder.dim, classes, self.directions, self.residual_weight, self.normalize, self.shrinkage
        )

    def solve(self, table: Table, embed: Embed) -> None:
        require_labels(table)
        # A held-out table keeps the integers of all classes, even of those that it has no row of.
        classes, labels = torch.tensor(table.column("label")).unique(return_inverse=True)
        detector = self._made(len(classes))
        detector.fit(embed(table, self.example), labels)
        self.detector = detector

    def space(self) -> Space:
        geometry = "cosine" if self.normalize else "euclidean"
        parts = {} if self.detector is None else {"detector": self.detector}
        return Space({self.example: self.encoder}, geometry=geometry, parts=parts)
