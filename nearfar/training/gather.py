"""The batch of all processes in each of them, with gradient.

Every process computes the loss of the joined batch. The backward of `gather` adds what all of them
ask of a row, so that the mean of the parameters' gradients over the processes (`average_gradients`)
is the gradient that one process with the joined batch would have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_count() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def leave_processes() -> None:
    """Leave the group of processes, if this one is in any: gloo's threads must end before the interpreter does."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.rows = own.shape[0]
        parts = [torch.empty_like(own) for _ in range(process_count())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        start = process_rank() * ctx.rows
        return total[start : start + ctx.rows]


def gather(own: Tensor) -> Tensor:
    """Join the rows of all processes, in the order of their ranks: [B, ...] -> [processes * B, ...]."""
    return own if process_count() == 1 else _Gather.apply(own)


def gather_plain(batch: dict[str, Any]) -> dict[str, Any]:
    """Join the plain tensors of a batch (labels, identities); encoder inputs stay this process's own."""
    return {role: gather(value) if isinstance(value, Tensor) else value for role, value in batch.items()}


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange for each data type.

    A parameter that got no gradient in this process (unused in its branch) counts as zero.
    """
    if process_count() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in learning:
        assert parameter.grad is not None
        by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= process_count()
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
