"""How far rebuilt features are from the given ones."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def normalised_mse(rebuilt: Tensor, target: Tensor) -> Tensor:
    """Mean squared error divided by that of the batch's mean: 1 says "no better than the mean".

        MSE(r, t) / MSE(mean over the batch of t, t)

    0, without gradient, where all rows of the target agree, since every answer is then as good as the mean.

    Gao et al. "Scaling and Evaluating Sparse Autoencoders." ICLR 2025, for the auxiliary loss.

    Args:
        rebuilt: [B, d].
        target: [B, d].
    """
    spread = functional.mse_loss(target.mean(dim=0).expand_as(target), target)
    if not bool(spread > 0):
        return spread.new_zeros(())
    return functional.mse_loss(rebuilt, target) / spread
