"""How far one softmax over many keys is from another, a few rows at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.ops.kept_gradients import keep, times_upstream
from nearfar.ops.row_chunks import TEXTBOOK_CELLS


def softmax_divergence(learning: Tensor, knowing: Tensor, keys: Tensor, tau_l: float, tau_k: float) -> Tensor:
    """mean_i KL(softmax(knowing_i . keys / tau_k) || softmax(learning_i . keys / tau_l)), with gradient to `learning`.

    The gradient is computed with the value, and alone kept for the backward pass: no matrix of N x M ever is, and
    there are no second derivatives.

    Args:
        learning: [N, d].
        knowing: [N, d].
        keys: [M, d].
        tau_l: temperature of `learning`.
        tau_k: temperature of `knowing`.
    """
    found: Tensor = _Divergence.apply(learning, knowing.detach(), keys.detach(), tau_l, tau_k)
    return found


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, learning: Tensor, knowing: Tensor, keys: Tensor, tau_l: float, tau_k: float
    ) -> Tensor:
        total, gradient = learning.new_zeros(()), torch.empty_like(learning)
        step = max(1, TEXTBOOK_CELLS // len(keys))
        for few in (slice(start, start + step) for start in range(0, len(learning), step)):
            log_p = (knowing[few] @ keys.mT).div_(tau_k)
            log_q = (learning[few] @ keys.mT).div_(tau_l)
            log_p -= log_p.logsumexp(1, keepdim=True)
            log_q -= log_q.logsumexp(1, keepdim=True)
            p = log_p.exp()
            total += (p * (log_p - log_q)).sum()
            gradient[few] = log_q.exp_().sub_(p) @ keys / tau_l
        keep(ctx, [gradient / len(learning), None, None])
        return total / len(learning)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return *times_upstream(ctx, upstream[0]), None, None
