"""Linear layers on processors where oneDNN multiplies faster than MKL (see `nearfar.ops.products`).

A linear layer is a 1x1 convolution over positions. On an AMD EPYC with two threads that is 2.1 times as fast
forward and 2.0 backward, in the same float32 arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.ops.products import onednn_is_faster


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b as a 1x1 convolution: [B, L, d] -> [B, L, e]; differentiable."""
    image = x.unsqueeze(1).permute(0, 3, 1, 2)  # [B, d, 1, L], channels last: no copy
    return functional.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1).squeeze(1)


class OneDNNLinear(nn.Linear):
    """`nn.Linear` that takes the faster way where it is exact: float32 [B, L, d] on the CPU."""

    def forward(self, input: Tensor) -> Tensor:  # the name nn.Linear gives it
        plain = (
            input.dim() != 3
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
        )
        return super().forward(input) if plain else linear(input, self.weight, self.bias)


def use_faster_linear(model: nn.Module) -> None:
    """Make every `nn.Linear` in `model` a `OneDNNLinear`, if this processor gains by it.

    Parameters, their names and the state dict stay as they are.
    """
    if onednn_is_faster():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OneDNNLinear
