"""Codes with few entries that are not zero, from which the features can be rebuilt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.errors import ArgumentError, check_between

ALIVE = 1e-5
"""A latent counts as used where its value in a code is above this."""


class TopKSparseCoder(nn.Module):
    """A tied autoencoder that keeps the k largest activations of a row.

        a = W (x - b_pre) + b_lat,    z_k = relu(TopK_k(a)),    x^ = W^T z_k + b_pre        x: [d], a, z: [h]

    TopK comes first and relu second: a row with fewer than k positive activations has fewer entries, and a
    gradient reaches an activation only where it is among the k and positive. The rows of W have no norm to keep.

    A latent is dead when more than `dead_after` forward passes have gone by without its being used; the
    passes are counted by `count`, which the code with a latent in it sets back to 1.

    Makhzani, Frey. "k-Sparse Autoencoders." ICLR 2014; Gao et al. "Scaling and Evaluating Sparse Autoencoders."
    ICLR 2025 (dead latents); Wen et al. "Beyond Matryoshka." ICML 2025 (tied, without unit norm).

    Args:
        dims: d and h.
        k: entries of a code, at most h.
        dead_after: forward passes.

    Raises:
        ArgumentError: not two widths, one below 1, or k not between 1 and h.
    """

    idle: Tensor

    def __init__(self, *dims: int, k: int, dead_after: int = 30) -> None:
        super().__init__()
        if len(dims) != 2 or min(dims) < 1:
            raise ArgumentError(f"TopKSparseCoder takes two widths (features, latents), got {dims}")
        check_between(1, dims[1], k=k)
        check_between(1, float("inf"), dead_after=dead_after)
        self.dims, self.k, self.dead_after = dims, k, dead_after
        self.encoder = nn.Linear(*dims, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(dims[0]))
        self.latent_bias = nn.Parameter(torch.zeros(dims[1]))
        self.register_buffer("idle", torch.zeros(dims[1], dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Features [..., d] to codes [..., h] with at most k entries."""
        return self.select(self.activations(x))

    def activations(self, x: Tensor) -> Tensor:
        """a [..., h] of features [..., d]."""
        return functional.linear(x - self.pre_bias, self.encoder.weight, self.latent_bias)

    def select(self, activations: Tensor, k: int | None = None) -> Tensor:
        """relu(TopK_k(a)), [..., h]; None takes the head's own k, and more than h takes all."""
        largest = activations.topk(min(k or self.k, activations.shape[-1]), dim=-1)
        kept = torch.zeros_like(activations).scatter(-1, largest.indices, largest.values)
        return functional.relu(kept)

    def decode(self, codes: Tensor) -> Tensor:
        """Features [..., d] rebuilt from codes [..., h]."""
        return functional.linear(codes, self.encoder.weight.mT) + self.pre_bias

    @property
    def dead(self) -> Tensor:
        """Which latents are dead: bool [h]."""
        return self.idle > self.dead_after

    def select_dead(self, activations: Tensor, k: int) -> Tensor:
        """relu(TopK_k(a)) among the dead latents alone, [..., h]; zeros where none is dead."""
        return self.select(activations * self.dead, k)

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """Count one forward pass whose codes were `codes` [B, h]."""
        self.idle.masked_fill_((codes > ALIVE).any(dim=0), 0).add_(1)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {
            "class": "TopKSparseCoder",
            "dims": list(self.dims),
            "k": self.k,
            "dead_after": self.dead_after,
        }
