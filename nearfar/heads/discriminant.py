"""A detector in two orthogonal parts of whitened features: what tells classes apart, and the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import check_between
from nearfar.heads.detectors import Detector, classes_of
from nearfar.heads.scatter import class_means, inverse_root, pooled_covariance


class WhitenedDiscriminant(Detector):
    """Distances in the discriminant space of whitened features and in what that space leaves out.

        z = Sigma_w^(-1/2) x                         Sigma_w = 1/N sum_i (x_i - mu_c(i)) (x_i - mu_c(i))^T
        G = first N_D eigenvectors of (S_w + alpha I)^-1 S_b of z, unit rows
        S_b = 1/C sum_c (mu_c - mu) (mu_c - mu)^T    every class counts once, mu is the mean of the rows
        H = I - V^T V                                V an orthonormal basis of the rows of G
        d_g = min_c || G (z - mu_c) ||,  d_h = || H (z - mu) ||,  score = - (d_g + w d_h)

    S_b has rank C - 1 at most, so that no more directions are taken. Directions of features in which the
    classes do not vary have weight 0 (pseudo-inverse), unless `shrinkage` gives them some variance.
    The eigenvectors are those of the symmetric problem S_b v = l (S_w + alpha I) v.

    Chen, Lin, Xu, Vela. "WDiscOOD." ICCV 2023, and its released scorer (both distances Euclidean).

    Args:
        dim: D, width of the embeddings.
        classes: C, at least 2.
        directions: N_D, at most C - 1 are taken.
        residual_weight: w.
        normalize: scale rows to unit length first.
        shrinkage: s of Sigma_w <- (1 - s) Sigma_w + s trace(Sigma_w) / D I.
        alpha: keeps S_w invertible.

    Raises:
        ArgumentError: an argument is out of its range.
    """

    to_g: Tensor
    to_h: Tensor
    means_g: Tensor
    mean: Tensor

    def __init__(
        self,
        dim: int,
        classes: int,
        directions: int = 1000,
        residual_weight: float = 5.0,
        normalize: bool = False,
        shrinkage: float = 0.0,
        alpha: float = 1e-5,
    ) -> None:
        super().__init__(dim, normalize=normalize)
        check_between(2, math.inf, classes=classes)
        check_between(1, math.inf, directions=directions)
        check_between(0, math.inf, residual_weight=residual_weight)
        check_between(0, 1, shrinkage=shrinkage)
        check_between(1e-12, math.inf, alpha=alpha)
        self.classes, self.directions = classes, min(directions, classes - 1, dim)
        self.residual_weight, self.shrinkage, self.alpha = residual_weight, shrinkage, alpha
        kept = self.directions
        self._room(to_g=(kept, dim), to_h=(dim, dim), means_g=(classes, kept), mean=(dim,))

    def settings(self) -> dict[str, Any]:
        return {
            "class": "WhitenedDiscriminant",
            "dims": [self.dim, self.classes],
            "directions": self.directions,
            "residual_weight": self.residual_weight,
            "normalize": self.normalize,
            "shrinkage": self.shrinkage,
            "alpha": self.alpha,
        }

    def _fit(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        labels = classes_of(labels, self.classes, self)
        whitening = inverse_root(pooled_covariance(rows, labels, self.shrinkage))
        mean = rows.mean(dim=0)
        z = (rows - mean) @ whitening
        means = class_means(z, labels)
        g, v = self._discriminants(pooled_covariance(z, labels), means.T @ means / self.classes)
        self._keep(to_g=g @ whitening, to_h=whitening - v.T @ (v @ whitening), means_g=means @ g.T, mean=mean)
        return self._scores(rows)

    def _discriminants(self, within: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
        """G and V, [N_D, D] each; rows beyond the rank of `between` are zeros."""
        eye = torch.eye(self.dim, dtype=torch.float64, device=within.device)
        lower = torch.linalg.cholesky(within + self.alpha * eye)
        half = torch.linalg.solve_triangular(lower, between, upper=False)
        symmetric = torch.linalg.solve_triangular(lower, half.T, upper=False)
        values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
        values, vectors = values.flip(0)[: self.directions], vectors.flip(1)[:, : self.directions]
        g = nn.functional.normalize(torch.linalg.solve_triangular(lower.T, vectors, upper=True).T, dim=1)
        real = values > 1e-10 * values[0].clamp(min=1e-300)
        basis = torch.zeros_like(g)
        basis[real] = torch.linalg.svd(g[real], full_matrices=False).Vh
        return torch.where(real[:, None], g, 0.0), basis

    def distances(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """d_g and d_h of embeddings [N, D], [N] each: either alone is a detector too."""
        return self._distances(self._rows(x))

    def _distances(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        centred = rows - self.mean
        g = torch.cdist(centred @ self.to_g.T, self.means_g, compute_mode="donot_use_mm_for_euclid_dist")
        return g.amin(dim=1), (centred @ self.to_h.T).norm(dim=1)

    def _scores(self, rows: Tensor) -> Tensor:
        g, h = self._distances(rows)
        return -(g + self.residual_weight * h)
