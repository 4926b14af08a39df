"""Detectors: how much at home an embedding is among those that a detector was fitted to.

Each is fitted in closed form, computes in float64, and says for every row a score: higher is more at home.
`threshold` is the highest score that at least 95% of the rows it was fitted to reach; those rows score a
little better than new ones of the same kind, the more so the fewer they are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError, check_between
from nearfar.heads.scatter import class_means, inverse_root, pooled_covariance

KEPT = 0.95
"""Share of the fitted rows that reach the threshold."""
BLOCK = 2048
"""Rows compared with all remembered ones at once."""


class Detector(nn.Module, ABC):
    """What all detectors share: checks, unit rows where asked for, the threshold.

    Args:
        dim: D, width of the embeddings.
        normalize: scale rows to unit length first.
    """

    threshold: Tensor

    def __init__(self, dim: int, *, normalize: bool) -> None:
        super().__init__()
        if dim < 1:
            raise ArgumentError(f"dim={dim}: embeddings are at least 1 wide")
        self.dim, self.normalize = dim, normalize
        self.register_buffer("threshold", torch.tensor(math.nan, dtype=torch.float64))

    def fit(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Fit to embeddings of training rows.

        Args:
            x: [N, D].
            labels: integer classes [N], for the detectors that need them.

        Raises:
            ArgumentError: shapes do not match, a value is not finite, or labels are missing.
        """
        rows = self._rows(x)
        if labels is not None and labels.shape != (len(rows),):
            raise ArgumentError(f"one label for each of the {len(rows)} rows, not shape {list(labels.shape)}")
        own = self._fit(rows, labels).sort(descending=True).values
        # Rounded up, but 0.95 * 20 is above 19 in binary fractions and may not ask for one row more.
        self.threshold.copy_(own[math.ceil(KEPT * len(own) - 1e-9 * len(own)) - 1])

    def forward(self, x: Tensor) -> Tensor:
        """Scores of embeddings [N, D]: float64 [N].

        Raises:
            ArgumentError: another width, a value that is not finite, or the detector is not fitted.
        """
        if bool(self.threshold.isnan()):
            raise ArgumentError(f"this {type(self).__name__} was not fitted: call fit with training rows")
        return self._scores(self._rows(x))

    def _rows(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.dim or not len(x):
            raise ArgumentError(f"embeddings must be [N, {self.dim}] with N above 0, not {list(x.shape)}")
        rows = x.detach().double()
        if not bool(rows.isfinite().all()):
            bad = int((~rows.isfinite().all(dim=1)).nonzero()[0])
            raise ArgumentError(f"embedding {bad + 1} of {len(rows)} holds NaN or infinity")
        return nn.functional.normalize(rows, dim=1) if self.normalize else rows

    def _keep(self, **buffers: Tensor) -> None:
        """Remember what was fitted."""
        for name, tensor in buffers.items():
            getattr(self, name).copy_(tensor)

    def _room(self, **shapes: tuple[int, ...]) -> None:
        """Buffers of the sizes that the settings say, so that they can be read from a file."""
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this detector again, as JSON values."""

    @abstractmethod
    def _fit(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        """Fit to float64 rows [N, D]; their own scores [N]."""

    @abstractmethod
    def _scores(self, rows: Tensor) -> Tensor:
        """Scores of float64 rows [N, D]."""


def classes_of(labels: Tensor | None, classes: int, who: nn.Module) -> Tensor:
    """Check the labels of a detector that needs them.

    Raises:
        ArgumentError: there are none, or they are not the integers 0 ... classes - 1, each at least once.
    """
    if labels is None:
        raise ArgumentError(f"{type(who).__name__} needs the class of every row it is fitted to: give labels")
    seen = labels.unique().tolist()
    if seen != list(range(classes)):
        raise ArgumentError(
            f"labels must be 0 ... {classes - 1}, each at least once: {len(seen)} classes from {seen[0]} to "
            f"{seen[-1]} were given"
        )
    return labels


class Mahalanobis(Detector):
    """Distance to the nearest class mean under the covariance that all classes share.

        score = - min_c (x - mu_c)^T Sigma_w^-1 (x - mu_c)        pseudo-inverse where Sigma_w is singular

    Lee, Lee, Lee, Shin. "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks." NeurIPS 2018, eq. 2, on the last features alone.

    Args:
        dim: D, width of the embeddings.
        classes: C, at least 1.
        normalize: scale rows to unit length first.
        shrinkage: as in `WhitenedDiscriminant`.
    """

    whitening: Tensor
    means: Tensor
    mean: Tensor

    def __init__(self, dim: int, classes: int, normalize: bool = False, shrinkage: float = 0.0) -> None:
        super().__init__(dim, normalize=normalize)
        check_between(1, math.inf, classes=classes)
        check_between(0, 1, shrinkage=shrinkage)
        self.classes, self.shrinkage = classes, shrinkage
        self._room(whitening=(dim, dim), means=(classes, dim), mean=(dim,))

    def settings(self) -> dict[str, Any]:
        dims = [self.dim, self.classes]
        made = {"class": "Mahalanobis", "dims": dims, "normalize": self.normalize}
        return {**made, "shrinkage": self.shrinkage}

    def _fit(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        labels = classes_of(labels, self.classes, self)
        whitening = inverse_root(pooled_covariance(rows, labels, self.shrinkage))
        mean = rows.mean(dim=0)
        self._keep(whitening=whitening, means=class_means(rows - mean, labels) @ whitening, mean=mean)
        return self._scores(rows)

    def _scores(self, rows: Tensor) -> Tensor:
        z = (rows - self.mean) @ self.whitening
        distances = torch.cdist(z, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        return -distances.amin(dim=1).square()


class NearestNeighbour(Detector):
    """Distance to the k-th nearest of the rows it was fitted to, all of unit length.

        score = - || x - x_(k) ||

    Sun, Ming, Zhu, Li. "Out-of-Distribution Detection with Deep Nearest Neighbors." ICML 2022. The threshold
    leaves each fitted row out of its own neighbours.

    Args:
        dim: D, width of the embeddings.
        rows: N, how many rows it is fitted to and remembers.
        k: the neighbour whose distance counts; below N.
    """

    bank: Tensor

    def __init__(self, dim: int, rows: int, k: int = 50) -> None:
        super().__init__(dim, normalize=True)
        check_between(2, math.inf, rows=rows)
        check_between(1, rows - 1, k=k)
        self.rows, self.k = rows, k
        self._room(bank=(rows, dim))

    def settings(self) -> dict[str, Any]:
        return {"class": "NearestNeighbour", "dims": [self.dim, self.rows], "k": self.k}

    def _fit(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        if len(rows) != self.rows:
            raise ArgumentError(f"made for {self.rows} rows, {len(rows)} were given")
        self._keep(bank=rows)
        return self._kth(rows, self.k + 1)

    def _scores(self, rows: Tensor) -> Tensor:
        return self._kth(rows, self.k)

    def _kth(self, rows: Tensor, k: int) -> Tensor:
        cosines = [(part @ self.bank.T).topk(k, dim=1).values[:, -1] for part in rows.split(BLOCK)]
        return -(2 - 2 * torch.cat(cosines)).clamp(min=0).sqrt()


class PrincipalResidual(Detector):
    """Length of what the principal components of all rows leave out.

        score = - || (I - P P^T) (x - mu) ||        P: eigenvectors of the largest eigenvalues, [D, kept]

    The residual of Wang, Li, Feng, Zhang. "ViM: Out-of-Distribution with Virtual-logit Matching." CVPR 2022,
    around the mean of the rows instead of the origin that a classifier defines.

    Args:
        dim: D, width of the embeddings.
        kept: principal components, from 1 to D - 1 (ViM: 512 of 768, 1,000 of 2,048; half of fewer).
        normalize: scale rows to unit length first.
    """

    mean: Tensor
    principal: Tensor

    def __init__(self, dim: int, kept: int, normalize: bool = False) -> None:
        super().__init__(dim, normalize=normalize)
        check_between(1, dim - 1, kept=kept)
        self.kept = kept
        self._room(mean=(dim,), principal=(dim, kept))

    def settings(self) -> dict[str, Any]:
        return {"class": "PrincipalResidual", "dims": [self.dim, self.kept], "normalize": self.normalize}

    def _fit(self, rows: Tensor, labels: Tensor | None) -> Tensor:
        mean = rows.mean(dim=0)
        vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors
        self._keep(mean=mean, principal=vectors.flip(1)[:, : self.kept])
        return self._scores(rows)

    def _scores(self, rows: Tensor) -> Tensor:
        centred = rows - self.mean
        return -(centred - (centred @ self.principal) @ self.principal.T).norm(dim=1)
