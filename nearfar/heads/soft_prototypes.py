"""Learnt directions to which rows belong in shares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import check_between


class SoftPrototypes(nn.Module):
    """K learnt directions, and how much of each row belongs to each.

        R_ik = softmax over k of x_i . c_k / |c_k| / t

    Args:
        dims: K and d.
        temperature: t.
    """

    def __init__(self, *dims: int, temperature: float = 1.0) -> None:
        super().__init__()
        check_between(1e-6, float("inf"), temperature=temperature)
        self.dims, self.temperature = dims, temperature
        self.centres = nn.Parameter(torch.randn(*dims))

    def scores(self, rows: Tensor) -> Tensor:
        """[N, d] -> x . c / |c|, [N, K]: cosines where rows have length one."""
        return rows @ nn.functional.normalize(self.centres, dim=-1).T

    def forward(self, rows: Tensor) -> Tensor:
        """[N, d] -> shares R [N, K], rows sum to 1."""
        return (self.scores(rows) / self.temperature).softmax(dim=-1)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "SoftPrototypes", "dims": list(self.dims), "temperature": self.temperature}
