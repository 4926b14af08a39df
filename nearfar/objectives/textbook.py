"""InfoNCE as everybody writes it, for batches so small that its few operations are faster than any tiling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.geometry import ScoreName, at_least_float32, dot, negative_squared_distance

TEXTBOOK_CELLS = 512 * 512
"""Up to this many pairs the textbook form was faster than the streaming kernel (see docs/contrast-engine.md); pairs
of a symmetric loss count twice."""
GPU_TEXTBOOK_CELLS = 2048 * 2048
"""The same on a GPU, where starting kernels costs more than small ones compute. A guess: not measured."""


def is_small(n_pairs: int, symmetric: bool, device: torch.device) -> bool:
    """Whether the textbook form is the one to take."""
    return n_pairs * (1 + symmetric) <= (TEXTBOOK_CELLS if device.type == "cpu" else GPU_TEXTBOOK_CELLS)


def textbook_loss(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    score: ScoreName,
    symmetric: bool,
    reduction: Literal["mean", "sum"],
) -> Tensor:
    """Cross-entropy of the rows (and columns) of the matrix of scores; not finite where an input is not.

    Args:
        queries: [B, d].
        keys: [B, d].
        temperature: above 0.
        score: cosine, dot or euclidean.
        symmetric: the mean of both directions.
        reduction: over the rows.
    """
    queries, keys = at_least_float32(queries), at_least_float32(keys)
    if score == "cosine":
        queries = queries / torch.linalg.vector_norm(queries, dim=1, keepdim=True)
        keys = keys / torch.linalg.vector_norm(keys, dim=1, keepdim=True)
    compare = negative_squared_distance if score == "euclidean" else dot
    logits = compare(queries, keys) / temperature
    own = torch.arange(len(queries), device=queries.device)
    loss = functional.cross_entropy(logits, own, reduction=reduction)
    if not symmetric:
        return loss
    return (loss + functional.cross_entropy(logits.mT, own, reduction=reduction)) / 2
