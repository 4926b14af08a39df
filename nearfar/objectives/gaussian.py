"""Between normal distributions."""

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


def laplace_of_dirichlet(alpha: float, topics: int) -> tuple[float, float]:
    """Mean and log-variance of the normal that stands for a symmetric Dirichlet behind a softmax.

        mu = 0,   s^2 = (1 - 2/T) / alpha + 1 / (T alpha)

    Srivastava, Sutton. "Autoencoding Variational Inference for Topic Models." ICLR 2017, section 3.2.1.
    """
    variance = (1 - 2 / topics) / alpha + 1 / (topics * alpha)
    return 0.0, float(torch.tensor(variance, dtype=torch.float64).log())
