"""Features to a normal distribution over embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.heads.mlp import mlp


class GaussianHead(nn.Module):
    """Mean and variance of q(z|x); the mean is the embedding.

        h = relu(W x + b)        mu = W1 h + b1        log s^2 = W2 h + b2

    Kingma, Welling. "Auto-Encoding Variational Bayes." ICLR 2014.

    Args:
        width: of the features x.
        hidden: of h.
        dim: of z.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.width, self.hidden, self.dim = width, hidden, dim
        self.shared = mlp((width, hidden)).append(nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, dim), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """mu: [B, width] -> [B, dim]."""
        mean: Tensor = self.mean(self.shared(x))
        return mean

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log s^2, the logarithm of a variance, not of a standard deviation: [B, dim] each, float32."""
        h = self.shared(x)
        return self.mean(h).float(), self.log_variance(h).float()

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "GaussianHead", "dims": [self.width, self.hidden, self.dim]}


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One draw of each normal, with gradient to both moments: mu + s e, e ~ N(0, I) from the global random state."""
    return mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
