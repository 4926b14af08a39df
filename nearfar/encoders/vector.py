"""Rows of numbers to features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from nearfar.data.kinds import Vector
from nearfar.encoders.encoder import Features
from nearfar.encoders.settings import MadeOfSettings
from nearfar.errors import ArgumentError
from nearfar.heads.mlp import mlp


class MLPVector(MadeOfSettings):
    """Standardised numbers through an MLP with layer norm.

    Args:
        width: numbers in a row.
        hidden: units of each hidden layer.
        dim: width of the features.
        layers: hidden layers, at least 1.
        dropout: of hidden units; with 0 there are no dropout twins.

    Raises:
        ArgumentError: a width or the number of layers is below 1.
    """

    kind = Vector
    mean: Tensor
    std: Tensor

    def __init__(
        self, width: int, hidden: int = 256, dim: int = 128, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ArgumentError(f"layers={layers}: give at least 1 hidden layer")
        self._settings = {"width": width, "hidden": hidden, "dim": dim, "layers": layers, "dropout": dropout}
        self.width, self.dim = width, dim
        self.network = mlp([width] + [hidden] * layers + [dim], norm="layer", dropout=dropout)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @classmethod
    def fitted(cls, examples: Sequence[Any], hidden: int = 256, dim: int = 128) -> Self:
        """An encoder for rows like `examples`, with their mean and standard deviation.

        A column that never changes is only centred.

        Raises:
            ArgumentError: there are no examples, or they are not equally long.
        """
        if not examples:
            raise ArgumentError("a vector encoder cannot be fitted to no rows")
        encoder = cls(len(examples[0]), hidden, dim)
        values = encoder.prepare(examples)["values"].double()
        std, mean = torch.std_mean(values, dim=0, correction=0)
        # Judged against the column's size: a constant column of large numbers has a rounding-sized spread.
        constant = std <= 1e-7 * mean.abs().clamp(min=1e-30)
        encoder.mean.copy_(mean)
        encoder.std.copy_(std.masked_fill(constant, 1.0))
        return encoder

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Stack B rows.

        Returns:
            "values", float32 [B, width].

        Raises:
            ArgumentError: a row is longer or shorter than `width`.
        """
        wrong = next((i for i, row in enumerate(rows) if len(row) != self.width), None)
        if wrong is not None:
            raise ArgumentError(
                f"row {wrong + 1} of {len(rows)} has {len(rows[wrong])} numbers; "
                f"this encoder takes {self.width}"
            )
        return {"values": torch.from_numpy(np.stack(rows).astype(np.float32))}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode "values", [B, width]; there is one token, which is the pooled vector."""
        pooled = self.network((inputs["values"] - self.mean) / self.std)
        mask = torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device)
        return Features(pooled.unsqueeze(1), mask, pooled)
