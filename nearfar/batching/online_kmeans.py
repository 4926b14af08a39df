"""Clusters of embeddings that change while a network learns: centroids that follow batch after batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError, check_between
from nearfar.geometry import cosine


class OnlineKMeans(nn.Module):
    """K centroids, nearest by cosine, moved a little towards the rows of every batch.

        c_k <- (1 - g) c_k + g m_k        m_k: mean (or sum) of the rows nearest to c_k; without any, c_k stays

    The first centroid is the first row of a batch; each next one is the row, of those not yet taken, that is
    least like the one chosen last (not like all chosen, as in k-means++). Rows of a shuffled batch are in random
    order, so no random numbers are drawn, and all processes that see one batch choose alike. Where a batch has fewer
    than K rows, those after it add theirs (ours: the source wants a batch of at least K).

    Deng et al. "Clustering-Aware Negative Sampling for Unsupervised Sentence Representation." Findings of ACL 2023.
    Saved and resumed with its owner: all that it knows is in buffers.

    Args:
        clusters: K, at least 2.
        dim: d, width of the rows.
        momentum: g, in [0, 1].
        update: m, "mean" or "sum" of the members; with "sum" large clusters move more.

    Raises:
        ArgumentError: an argument is out of range.
    """

    centroids: Tensor
    made: Tensor

    def __init__(
        self, clusters: int, dim: int, momentum: float, update: Literal["mean", "sum"] = "mean"
    ) -> None:
        super().__init__()
        check_between(2, math.inf, clusters=clusters)
        check_between(0, 1, momentum=momentum)
        if update not in ("mean", "sum"):
            raise ArgumentError(f"update must be 'mean' or 'sum', got {update!r}")
        self.momentum, self.update = momentum, update
        self.register_buffer("centroids", torch.zeros(clusters, dim))
        self.register_buffer("made", torch.zeros((), dtype=torch.long))

    @property
    def started(self) -> bool:
        """Whether all K centroids are there."""
        return int(self.made) == len(self.centroids)

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """Make centroids of rows [B, d], as many as are still to be made."""
        made, rows = int(self.made), rows.detach().to(self.centroids.dtype)
        stop = min(len(self.centroids), made + len(rows))
        taken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for place in range(made, stop):
            row = 0
            if place:
                likeness = cosine(self.centroids[place - 1 : place], rows)[0]
                row = int(likeness.masked_fill(taken, torch.inf).argmin())
            self.centroids[place] = rows[row]
            taken[row] = True
        self.made.fill_(stop)

    @torch.no_grad()
    def follow(self, rows: Tensor) -> None:
        """Move the centroids towards rows [B, d]."""
        rows, near = rows.detach().to(self.centroids.dtype), self.nearest(rows)
        members = torch.bincount(near, minlength=len(self.centroids))[:, None]
        target = torch.zeros_like(self.centroids).index_add_(0, near, rows)
        if self.update == "mean":
            target /= members.clamp_min(1)
        self.centroids.lerp_(torch.where(members > 0, target, self.centroids), self.momentum)

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """The cluster of each of rows [B, d]: int64 [B]."""
        return self._likeness(rows).argmax(dim=1)

    @torch.no_grad()
    def second(self, rows: Tensor) -> Tensor:
        """The second nearest centroid of each of rows [B, d], detached: [B, d]."""
        return self.centroids[self._likeness(rows).topk(2, dim=1).indices[:, 1]].to(rows.dtype)

    def same_cluster(self, rows: Tensor) -> Tensor:
        """Which different rows of rows [B, d] are in one cluster: bool [B, B], False on the diagonal."""
        near = self.nearest(rows)
        return (near[:, None] == near[None, :]).fill_diagonal_(False)

    def _likeness(self, rows: Tensor) -> Tensor:
        if not self.started:
            raise ArgumentError(
                f"{int(self.made)} of {len(self.centroids)} centroids are made: start with more rows"
            )
        return cosine(rows.detach().to(self.centroids.dtype), self.centroids)
