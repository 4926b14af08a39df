"""Of normal distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def gauss_kl(
    mean: Tensor,
    log_variance: Tensor,
    prior_mean: Tensor | float = 0.0,
    prior_log_variance: Tensor | float = 0.0,
) -> Tensor:
    """KL( N(mu, s^2) || N(mu0, s0^2) ) of diagonal normals, for each row:

        1/2 sum_t [ s^2 / s0^2 + (mu - mu0)^2 / s0^2 - 1 + log s0^2 - log s^2 ]

    Args:
        mean: mu [B, T].
        log_variance: log s^2 [B, T].
        prior_mean: mu0, [T] or a number.
        prior_log_variance: log s0^2, [T] or a number.

    Returns:
        [B].
    """
    if mean.shape != log_variance.shape:
        raise ArgumentError(
            f"mean and log_variance must have one shape, got {list(mean.shape)} and {list(log_variance.shape)}"
        )
    gap = torch.as_tensor(prior_log_variance, dtype=mean.dtype, device=mean.device) - log_variance
    away = (mean - prior_mean).square() * torch.exp(gap + log_variance).reciprocal()
    return 0.5 * (torch.exp(-gap) + away - 1 + gap).sum(-1)


def corr_mi(x: Tensor, y: Tensor, mask: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Mutual information of two normal variables, from the correlation of their samples, for each row:

        I = -1/2 log(1 - rho^2),   rho = Pearson(x, y)

    Args:
        x: samples [..., n].
        y: samples of the other variable, paired with those of x [..., n].
        mask: which samples count [..., n]; None: all.
        eps: least 1 - rho^2, so that equal samples have -1/2 log(eps) nats, and no gradient.

    Returns:
        In nats, [...]; 0 where samples of a row are all equal, or fewer than two count.
    """
    if x.shape != y.shape or (mask is not None and mask.shape != x.shape):
        raise ArgumentError(f"corr_mi needs samples in pairs, got {list(x.shape)} and {list(y.shape)}")
    counted = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    count = counted.sum(-1, keepdim=True).clamp(min=1)
    x, y = (counted * (v - (counted * v).sum(-1, keepdim=True) / count) for v in (x, y))
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    rho = (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).clamp(min=tiny).sqrt()
    return -0.5 * (1 - rho.square()).clamp(min=eps).log()


def laplace_of_dirichlet(alpha: float, topics: int) -> tuple[float, float]:
    """Mean and log-variance of the normal that stands for a symmetric Dirichlet behind a softmax.

        mu = 0,   s^2 = (1 - 2/T) / alpha + 1 / (T alpha)

    Srivastava, Sutton. "Autoencoding Variational Inference for Topic Models." ICLR 2017, section 3.2.1.
    """
    variance = (1 - 2 / topics) / alpha + 1 / (topics * alpha)
    return 0.0, float(torch.tensor(variance, dtype=torch.float64).log())
