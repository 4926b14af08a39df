"""One embedding out of the embeddings of several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError


class WeightedMean(nn.Module):
    """The direction of a weighted sum of unit embeddings.

        e = f / |f|,    f = sum_m w_m z_m / |z_m|            z_m: [N, d], e: [N, d]

    A row of zeros stands for a modality that a record lacks: it adds nothing.

    Args:
        weights: modality -> w_m, none negative, at least one above 0.

    Raises:
        ArgumentError: weights out of range.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        if not weights or min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
            raise ArgumentError(
                f"weights of modalities must be at least 0 and one of them above it, got {dict(weights)}"
            )
        self.weights = {name: float(weight) for name, weight in weights.items()}

    @property
    def used(self) -> list[str]:
        """The modalities whose weight is not 0."""
        return [name for name, weight in self.weights.items() if weight]

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """Fuse embeddings by modality; those without a weight of their own are left out."""
        parts = [
            self.weights[name] * nn.functional.normalize(z[name], dim=-1) for name in self.used if name in z
        ]
        return nn.functional.normalize(torch.stack(parts).sum(0), dim=-1)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "WeightedMean", "weights": self.weights}
