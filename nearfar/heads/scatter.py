"""Means and covariances of classes, in float64, and the inverse square root of a covariance."""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-12
"""A direction whose variance is below this part of the largest is one that rows in float32 do not vary in."""


def class_means(x: Tensor, labels: Tensor) -> Tensor:
    """Mean of each class: [N, D] and labels 0 ... C - 1, each at least once -> [C, D]."""
    counts = labels.bincount()
    sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    return sums / counts[:, None]


def pooled_covariance(x: Tensor, labels: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Covariance [D, D] of rows [N, D] about the means of their classes, over N.

    Args:
        x: the rows.
        labels: their classes, 0 ... C - 1.
        shrinkage: s in [0, 1] of (1 - s) Sigma + s trace(Sigma) / D I.
    """
    centred = x - class_means(x, labels)[labels]
    covariance = centred.T @ centred / len(x)
    if not shrinkage:
        return covariance
    eye = torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    return (1 - shrinkage) * covariance + shrinkage * covariance.trace() / len(covariance) * eye


def inverse_root(covariance: Tensor) -> Tensor:
    """Symmetric Sigma^(-1/2) [D, D]; directions without variance (see `FLAT`) are mapped to 0."""
    values, vectors = torch.linalg.eigh(covariance)
    varies = values > FLAT * values[-1].clamp(min=0)
    roots = torch.where(varies, values.clamp(min=1e-300).rsqrt(), 0.0)
    return vectors * roots @ vectors.T
