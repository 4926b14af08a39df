"""An encoder that never learns."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from nearfar.encoders.encoder import Encoder


class Frozen(nn.Module):
    """The pooled features of an encoder that stays as it is: no gradient, no dropout, in whatever mode its owner is.

    Args:
        encoder: frozen in place.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.dim = encoder.dim

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """[B, dim] of what the encoder's `prepare` returned for B examples."""
        return self.encoder(inputs).pooled
