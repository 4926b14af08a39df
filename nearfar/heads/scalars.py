"""Learned numbers that must stay positive and within limits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError


class PositiveScalar(nn.Module):
    """exp(p) with p learned from log(init) on; called, it gives a scalar tensor.

    Args:
        init: the value at the start.
        minimum: the value never falls below it.
        maximum: the value never rises above it.

    Raises:
        ArgumentError: the numbers are not 0 < minimum <= init <= maximum, or not finite.
    """

    def __init__(self, init: float, *, minimum: float | None = None, maximum: float | None = None) -> None:
        super().__init__()
        low, high = init if minimum is None else minimum, init if maximum is None else maximum
        if not 0 < low <= init <= high < math.inf:
            raise ArgumentError(f"a positive number between {minimum} and {maximum} is needed, got {init}")
        self.limits = tuple(None if limit is None else math.log(limit) for limit in (minimum, maximum))
        self.log = nn.Parameter(torch.tensor(math.log(init)))
        self._flag()

    def _flag(self) -> None:
        self.log.no_weight_decay = True  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flag()  # a copied parameter loses its attributes

    def forward(self) -> Tensor:
        """The value now, with its gradient."""
        # The parameter itself is held: a clamp in the graph would leave it without gradient beyond the limit.
        self.log.data.clamp_(*self.limits)
        return self.log.exp()
