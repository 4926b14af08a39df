"""What holds weights in place."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def weight_distance(weights: Iterable[Tensor], anchors: Iterable[Tensor]) -> Tensor:
    """How far weights have moved: sum over all tensors of |weight - anchor|^2, a SUM over every entry.

    Kim, Yoo, Lee. "Self-Guided Contrastive Learning for BERT Sentence Representations." ACL 2021.

    Args:
        weights: at least one.
        anchors: where they are to stay, of the same shapes in the same order; without gradient.

    Raises:
        ValueError: there are more of one than of the other.
    """
    pairs = zip(weights, anchors, strict=True)
    return torch.stack([(weight - anchor.detach()).square().sum() for weight, anchor in pairs]).sum()
