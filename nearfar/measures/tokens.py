"""How alike the token states of one text are, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def token_self_similarity(batches: Iterable[tuple[tuple[Tensor, ...], Tensor]]) -> np.ndarray:
    """Mean cosine of two different tokens of one text, for each layer: 1 - isotropy of the token states.

        sum_x sum_{i != j} cos(h_i, h_j) / sum_x |x| (|x| - 1)

    Sums of all texts are put together before the division: it is not a mean of the texts' own means. Tokens of
    different texts are never compared. In O(L d) a text: sum_{i != j} cos = |sum_i u_i|^2 - sum_i |u_i|^2.

    Su, Collier. "Contrastive Search Is What You Need For Neural Text Generation." TMLR 2023; by layer as the
    self-similarity of Su et al. NeurIPS 2022.

    Args:
        batches: token states of every layer, each [B, L, d], and where there is a token, [B, L].

    Returns:
        One value a layer.

    Raises:
        ArgumentError: no text has two tokens.
    """
    total: np.ndarray | float = 0.0
    pairs = 0
    for layers, mask in batches:
        lengths = mask.sum(1)
        pairs += int((lengths * (lengths - 1)).sum())
        found = []
        for states in layers:
            unit = torch.nn.functional.normalize(states.double(), dim=-1) * mask[:, :, None]
            found.append(float(unit.sum(1).square().sum() - unit.square().sum()))
        total = total + np.array(found)
    if not pairs:
        raise ArgumentError("tokens of one text are compared: no text has two")
    return np.asarray(total / pairs)
