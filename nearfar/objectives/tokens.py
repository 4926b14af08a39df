"""Contrast between the tokens of one text."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry.rows import at_least_float32


def token_contrast(states: Tensor, mask: Tensor, margin: float) -> Tensor:
    """Every token of a text is far from every other: mean over i != j of [m - s(h_i, h_i) + s(h_i, h_j)]_+.

    s is the cosine, so s(h_i, h_i) = 1 and the term is [cos_ij - (1 - m)]_+: no token is pulled anywhere, and
    nothing is asked of pairs whose cosine is below 1 - m. The mean is over the ordered pairs of all texts
    together, so long texts weigh more. 0 without pairs.

    Su et al. "A Contrastive Framework for Neural Text Generation." NeurIPS 2022, and its released code.

    Args:
        states: token states, [B, L, d].
        mask: True where there is a token, [B, L].
        margin: m, at least 0.

    Raises:
        ArgumentError: shapes do not fit, or the margin is negative.
    """
    if states.ndim != 3 or mask.shape != states.shape[:2] or mask.dtype != torch.bool:
        raise ArgumentError(
            f"states must be [B, L, d] and mask boolean [B, L], got {list(states.shape)} and {mask.dtype} "
            f"{list(mask.shape)}"
        )
    if margin < 0:
        raise ArgumentError(f"margin must be at least 0, got {margin}")
    unit = torch.nn.functional.normalize(at_least_float32(states), dim=-1)
    # Rounding puts some cosines above 1; with a margin of 0 they must cost exactly nothing.
    cosines = (unit @ unit.mT).clamp(max=1.0)
    pairs = mask[:, :, None] & mask[:, None, :]
    pairs = pairs & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    cost = (margin - 1 + cosines).relu().where(pairs, 0)
    return cost.sum() / pairs.sum().clamp(min=1)
