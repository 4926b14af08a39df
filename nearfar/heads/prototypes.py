"""One learnt direction for every class or cluster, in the space of the embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.geometry import cosine


class Prototypes(nn.Module):
    """K rows that embeddings are compared with by cosine; an embedding belongs to the nearest.

    As keys of `info_nce` with `Pairing.index(classes)` they are learnt with what they are compared with.
    A space that keeps them under the name "clusters" tells the cluster of every row it embeds.

    Args:
        dim: d, width of the embeddings.
        count: K.

    Raises:
        ArgumentError: fewer than one dimension, or fewer than two prototypes.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        if dim < 1 or count < 2:
            raise ArgumentError(f"{count} prototypes of width {dim}: at least two of width 1 are needed")
        self.dim, self.count = dim, count
        self.rows = nn.Parameter(torch.empty(count, dim))
        nn.init.orthogonal_(self.rows)

    def forward(self, z: Tensor) -> Tensor:
        """Cosines of embeddings [N, d] with the prototypes: [N, K]."""
        return cosine(z, self.rows)

    @torch.no_grad()
    def assign(self, z: Tensor) -> Tensor:
        """The nearest prototype of each embedding [N, d]: int64 [N]."""
        return self(z).argmax(dim=1)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "Prototypes", "dims": [self.dim, self.count]}
