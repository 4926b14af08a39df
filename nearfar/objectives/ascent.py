"""Negatives that are made, not found: noise that climbs a contrastive loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nearfar.errors import check_between


def ascend(noise: Tensor, loss: Callable[[Tensor], Tensor], steps: int, beta: float) -> Tensor:
    """Move every row up the gradient of a loss, a fixed length at each step.

        n <- n + beta g / |g|        g = d loss / d n        (row by row)

    Only the noise moves: detach whatever else the loss knows. A row without slope stays where it is.

    Zhou, Zhang, Zhao, Wen. "Debiased Contrastive Learning of Unsupervised Sentence Representations." ACL 2022.

    Args:
        noise: where the rows start, [N, d].
        loss: rows [N, d] -> a scalar.
        steps: how many are taken; 0 leaves the noise as it is.
        beta: length of a step, at least 0.

    Returns:
        Rows [N, d], detached.

    Raises:
        ArgumentError: `steps` or `beta` is below 0.
    """
    check_between(0, float("inf"), steps=steps, beta=beta)
    noise = noise.detach()
    for _ in range(steps):
        with torch.enable_grad():
            leaf = noise.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(leaf), leaf)
        length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
        noise = noise + beta * slope / length.clamp_min(torch.finfo(slope.dtype).tiny)
    return noise
