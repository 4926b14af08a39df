"""The backward pass of operations that compute their gradients together with their value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def keep(ctx: Any, gradients: Sequence[Tensor | None]) -> None:
    """Keep the gradients of a scalar for the backward pass; None where there is none."""
    ctx.present = [gradient is not None for gradient in gradients]
    ctx.save_for_backward(*(gradient for gradient in gradients if gradient is not None))


def times_upstream(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """What was kept, times the gradient of the scalar.

    Raises:
        RuntimeError: the gradient is to be differentiated again, which it cannot.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this loss has no second derivatives (create_graph=True): compute it with a score that is a function, "
            "such as score=nearfar.geometry.cosine"
        )
    saved = iter(ctx.saved_tensors)
    return tuple(next(saved) * upstream if present else None for present in ctx.present)
