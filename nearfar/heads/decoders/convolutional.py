"""Embeddings back to pictures, by transposed convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import check_between

FIRST_GRID = 4
"""The first grid is at most this wide; every layer doubles it."""


class ConvDecoder(nn.Module):
    """Two linear layers, then transposed convolutions (4 x 4, stride 2) that double a grid of at most 4 x 4.

    ReLU between all layers, a sigmoid at the end. What the last doubling makes too much is cut off evenly.

    Louiset et al., SepVAE, 2023, as released for 32 pixels; ours: any size.

    Args:
        dim: width of the embeddings.
        height: of the pictures, at least 1.
        width: of the pictures, at least 1.
        channels: of the grids between the layers.
        hidden: width of the linear layers.

    Raises:
        ArgumentError: an argument is below 1.
    """

    def __init__(self, dim: int, height: int, width: int, channels: int = 32, hidden: int = 256) -> None:
        super().__init__()
        check_between(1, math.inf, dim=dim, height=height, width=width, channels=channels, hidden=hidden)
        self.dim, self.height, self.width = dim, height, width
        self.channels, self.hidden = channels, hidden
        doublings = max(0, math.ceil(math.log2(max(height, width) / FIRST_GRID)))
        grid = (math.ceil(height / 2**doublings), math.ceil(width / 2**doublings))
        out = [channels] * doublings + [3]
        layers: list[nn.Module] = [
            nn.Linear(dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Unflatten(1, (hidden, 1, 1)),
            nn.ConvTranspose2d(hidden, out[0], grid),
        ]
        for wide in out[1:]:
            layers += [nn.ReLU(), nn.ConvTranspose2d(channels, wide, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Pictures in (0, 1): [B, dim] -> [B, 3, height, width]."""
        grown = torch.sigmoid(self.layers(z))
        top, left = (grown.shape[2] - self.height) // 2, (grown.shape[3] - self.width) // 2
        return grown[:, :, top : top + self.height, left : left + self.width]

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this decoder again, as JSON values."""
        dims = [self.dim, self.height, self.width, self.channels, self.hidden]
        return {"class": "ConvDecoder", "dims": dims}
