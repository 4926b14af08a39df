"""Losses that stop at a margin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def pair_margin(
    distance: Tensor, same: Tensor, m_neg: float, m_pos: float = 0.0, power: Literal[1, 2] = 2
) -> Tensor:
    """Near pairs within m_pos, far pairs beyond m_neg: mean of y [d - m_pos]_+^p + (1 - y) [m_neg - d]_+^p.

    Hadsell, Chopra, LeCun. "Dimensionality Reduction by Learning an Invariant Mapping." CVPR 2006, eq. 4,
    without its factor 1/2 (m_pos 0, power 2).

    Args:
        distance: [B], not negative.
        same: [B], True where the pair is near.
        m_neg: distance beyond which a far pair costs nothing.
        m_pos: distance within which a near pair costs nothing.
        power: 1 for a linear, 2 for a squared hinge.

    Raises:
        ArgumentError: shapes differ, nothing is given, `same` is not boolean, or power is neither 1 nor 2.
    """
    if distance.shape != same.shape or distance.numel() == 0 or same.dtype != torch.bool:
        raise ArgumentError(
            f"pair_margin needs one boolean `same` for each distance, got {same.dtype} {list(same.shape)} "
            f"for {list(distance.shape)}"
        )
    if power not in (1, 2):
        raise ArgumentError(f"power must be 1 or 2, got {power}")
    over = torch.where(same, distance - m_pos, m_neg - distance)
    return over.relu().pow(power).mean()


def triplet_margin(
    near: Tensor, far: Tensor, margin: float, mining: Literal["given", "hardest", "semi_hard"] = "given"
) -> Tensor:
    """A near key must beat far ones by a margin: mean of [margin - s_near + s_far]_+, higher s is nearer.

    Schroff, Kalenichenko, Philbin. "FaceNet: A Unified Embedding for Face Recognition and Clustering."
    CVPR 2015. For distances give their negatives.

    Args:
        near: score of each anchor with its near key, [B].
        far: scores with far keys, [B] or [B, M]; -inf where a key is none for this anchor.
        margin: how much nearer the near key must be.
        mining: "given" averages over all far keys; "hardest" takes each anchor's best-scored; "semi_hard" its
            best-scored among those below the near key's score, and nothing (0) where there is none.

    Raises:
        ArgumentError: shapes do not fit, or `mining` is unknown.
    """
    if near.ndim != 1 or near.numel() == 0 or far.ndim not in (1, 2) or len(far) != len(near):
        raise ArgumentError(
            f"near must be [B] and far [B] or [B, M], got {list(near.shape)} and {list(far.shape)}"
        )
    far = far.reshape(len(far), -1)
    if mining == "semi_hard":
        far = far.masked_fill(far >= near[:, None], -torch.inf)
    elif mining not in ("given", "hardest"):
        raise ArgumentError(f"mining must be 'given', 'hardest' or 'semi_hard', got {mining!r}")
    if mining != "given":
        far = far.amax(dim=1, keepdim=True)
    counted = torch.ones_like(far, dtype=torch.bool) if mining != "given" else far > -torch.inf
    cost = (margin - near[:, None] + far).relu()
    return cost.where(counted, 0).sum() / counted.sum().clamp(min=1)


def band_hinge(x: Tensor, low: float, high: float, power: Literal[1, 2] = 1) -> Tensor:
    """What lies outside of a band pays its distance to it: mean of [x - high]_+^p + [low - x]_+^p.

    Linear, it is the bidirectional margin loss of Deng et al. "Clustering-Aware Negative Sampling for Unsupervised
    Sentence Representation." Findings of ACL 2023.

    Args:
        x: any shape, not empty.
        low: where the band begins.
        high: where it ends, not below `low`.
        power: 1 for a linear, 2 for a squared hinge.

    Raises:
        ArgumentError: nothing is given, the band ends before it begins, or power is neither 1 nor 2.
    """
    if x.numel() == 0 or not low <= high or power not in (1, 2):
        raise ArgumentError(
            f"band_hinge needs values, low <= high and power 1 or 2; got shape {list(x.shape)}, low={low}, "
            f"high={high}, power={power}"
        )
    return ((x - high).relu().pow(power) + (low - x).relu().pow(power)).mean()
