"""A memory of the most recent keys: negatives without encoding them again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """First in, first out memory of embeddings, with whatever belongs to each of them.

    He et al. "Momentum Contrast for Unsupervised Visual Representation Learning." CVPR 2020. Filled at
    first with random unit rows, as there. Saved and resumed with the method (its rows are buffers).

    Args:
        size: K, rows remembered.
        dim: d, width of a row.
        extra: further values kept with each row, name -> value of an empty place (an integer), such as
            {"label": -1}.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int, extra: dict[str, int] | None = None) -> None:
        super().__init__()
        self.register_buffer("rows", nn.functional.normalize(torch.randn(size, dim), dim=-1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))
        self._extra = dict(extra or {})
        for name, empty in self._extra.items():
            self.register_buffer(f"extra_{name}", torch.full((size,), empty, dtype=torch.long))

    def extra(self, name: str) -> Tensor:
        """What was pushed as `name` beside each row: [K]."""
        return self.get_buffer(f"extra_{name}")

    @torch.no_grad()
    def push(self, rows: Tensor, **extra: Tensor) -> None:
        """Replace the oldest B rows by `rows` [B, d], wrapping around; only the last K count.

        Call it after the loss: a key pushed before would be its own negative.
        """
        size = len(self.rows)
        rows = rows.detach()[-size:]
        places = (int(self.position) + torch.arange(len(rows), device=rows.device)) % size
        self.rows[places] = rows.to(self.rows.dtype)
        for name in self._extra:
            self.extra(name)[places] = extra[name][-size:]
        self.position.fill_((int(self.position) + len(rows)) % size)
