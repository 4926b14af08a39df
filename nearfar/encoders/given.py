"""Vectors that some other model has made, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.data.kinds import Vector
from nearfar.encoders.encoder import Features
from nearfar.encoders.settings import MadeOfSettings
from nearfar.errors import ArgumentError, check_between


class GivenVectors(MadeOfSettings):
    """Features are the vectors of the table: for heads that stand on embeddings made elsewhere.

    Args:
        width: numbers in a vector.

    Raises:
        ArgumentError: the width is below 1.
    """

    kind = Vector

    def __init__(self, width: int) -> None:
        super().__init__()
        check_between(1, float("inf"), width=width)
        self.dim, self._settings = width, {"width": width}

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Stack B vectors.

        Returns:
            "values", float32 [B, width].

        Raises:
            ArgumentError: a vector is longer or shorter than `width`.
        """
        lengths = [len(row) for row in rows]
        if set(lengths) != {self.dim}:
            place = next(i for i, length in enumerate(lengths) if length != self.dim)
            raise ArgumentError(
                f"row {place + 1} of {len(rows)} has {lengths[place]} numbers; the vectors given before have "
                f"{self.dim}"
            )
        return {"values": torch.from_numpy(np.asarray(rows, dtype=np.float32))}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Hand "values" [B, width] over; there is one token, which is the vector."""
        values = inputs["values"]
        mask = torch.ones(len(values), 1, dtype=torch.bool, device=values.device)
        return Features(values.unsqueeze(1), mask, values)
