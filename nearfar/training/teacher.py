"""Copies of a network that do not learn by gradient."""

from __future__ import annotations

import copy
from typing import Any, Generic, Self, TypeVar

import torch
from torch import nn

from nearfar.errors import check_between

M = TypeVar("M", bound=nn.Module)


def snapshot(module: M) -> M:
    """A copy of a network as it is now, which never learns; it follows the mode (train or eval) of its owner."""
    return copy.deepcopy(module).requires_grad_(False)


class FrozenTeacher(nn.Module, Generic[M]):
    """A copy of a network as it is now, which never learns and stays in evaluation mode whatever its owner's mode is.

    Args:
        module: the network; not registered as a part of this module.

    Attributes:
        model: the copy. Called directly it is like any network; this module calls it without gradient.
    """

    model: M

    def __init__(self, module: M) -> None:
        super().__init__()
        self.model = snapshot(module)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network makes of its inputs."""
        return self.model(*inputs, **options)


class EMATeacher(nn.Module):
    """A copy whose weights follow the student's slowly.

    theta_teacher <- decay * theta_teacher + (1 - decay) * theta_student

    Tarvainen and Valpola. "Mean teachers are better role models." NeurIPS 2017; as momentum encoder in He
    et al., CVPR 2020. Buffers (running statistics) are copied at every update.

    Args:
        student: the network to follow; not registered as a part of this module.
        decay: weight of the old value, in [0, 1].

    Raises:
        ArgumentError: the decay is out of range.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__()
        check_between(0, 1, decay=decay)
        self.model = snapshot(student)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards the student."""
        for own, new in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 1 - self.decay)
        for kept, now in zip(self.model.buffers(), student.buffers(), strict=True):
            kept.copy_(now)
