"""A learned score between two vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Bilinear(nn.Module):
    """Turns queries q into q W, whose inner products with keys k are the scores q^T W k.

    So a bilinear score is one that every loss and index knows as "dot". W starts with entries U[0, 1), as in
    CURL (Laskin, Srinivas, Abbeel. "CURL: Contrastive Unsupervised Representations for Reinforcement
    Learning." ICML 2020), with van den Oord et al. 2018 for the score.

    Args:
        dims: width of the queries, and of the keys.
    """

    def __init__(self, *dims: int) -> None:
        super().__init__()
        rows, columns = dims
        self.weight = nn.Parameter(torch.rand(rows, columns))

    def forward(self, queries: Tensor) -> Tensor:
        """[..., dims[0]] -> [..., dims[1]]."""
        return queries @ self.weight

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "Bilinear", "dims": list(self.weight.shape)}
