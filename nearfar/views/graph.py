"""Views of a graph: without some of its links and features, the unimportant ones first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nearfar.ops.centrality import degree, eigenvector_centrality, pagerank

Centrality = Literal["pagerank", "degree", "eigenvector"]
MOST = 0.7
"""No link and no feature is dropped with a greater probability than this."""
SMALLEST = 1e-8
"""Stands for a centrality of 0, whose logarithm would be -infinity."""


@dataclass(frozen=True)
class DropWeights:
    """How much more readily than on average each part of a graph is dropped; both have mean 1.

    Attributes:
        links: [E].
        features: [d]; 0 for a feature that no node has.
    """

    links: Tensor
    features: Tensor


def drop_weights(features: Tensor, links: Tensor, centrality: Centrality = "pagerank") -> DropWeights:
    """Weights by centrality c of the nodes.

        link (node i <- neighbour j):  x = log c_i        feature f:  x_f = log sum_i [x_if is not 0] c_i
        weight = s / mean(s),  s = (max x - x) / (max x - mean x),  and 1 where all x agree

    Features of which less than half are 0 count by their size, |x_if| in place of [x_if is not 0].

    Zhu, Xu, Yu, Liu, Wu, Wang. "Graph Contrastive Learning with Adaptive Augmentation." WWW 2021, eq. 5-8.

    Args:
        features: [N, d], dense or sparse.
        links: [2, E].
        centrality: c.
    """
    measure = {"pagerank": pagerank, "degree": degree, "eigenvector": eigenvector_centrality}[centrality]
    c = measure(links, len(features)).clamp(min=SMALLEST)
    present = features.abs().double()
    if present.is_sparse:
        present = _sparse(present.indices(), torch.ones_like(present.values()), present.shape)
    elif (present == 0).double().mean() >= 0.5:
        present = (present != 0).double()
    return DropWeights(_weights(c.log()[links[0]]), _weights((present.mT @ c[:, None])[:, 0].log()))


def _weights(x: Tensor) -> Tensor:
    found = x.isfinite()
    known = x[found]
    s = torch.zeros_like(x)
    if len(known):
        spread = known.max() - known.mean()
        # Where all are equal the formula is 0 / 0, up to rounding: all are dropped alike.
        alike = spread <= 1e-9 * known.abs().max()
        s[found] = torch.ones_like(known) if alike else (known.max() - known) / spread
        s /= s[found].mean()
    return s.float()


def drop_graph(
    features: Tensor,
    links: Tensor,
    generator: torch.Generator,
    *,
    drop_links: float,
    drop_features: float,
    weights: DropWeights | None = None,
) -> tuple[Tensor, Tensor]:
    """Drop each link, and each feature of all nodes at once, with probability min(share * weight, 0.7).

    The two directions of a link are dropped one by one.

    Args:
        features: [N, d], dense or sparse.
        links: [2, E].
        generator: all randomness.
        drop_links: share of the links that is dropped where all weights are 1.
        drop_features: the same of the features.
        weights: of this graph; None: all 1.

    Returns:
        Features of the same shape with columns of 0, and the links that are left.
    """
    weights = weights or DropWeights(torch.ones(links.shape[1]), torch.ones(features.shape[1]))
    kept = torch.rand(links.shape[1], generator=generator) >= (drop_links * weights.links).clamp(max=MOST)
    stays = torch.rand(features.shape[1], generator=generator) >= (drop_features * weights.features).clamp(
        max=MOST
    )
    if not features.is_sparse:
        return features * stays, links[:, kept]
    chosen = stays[features.indices()[1]]
    indices, values = features.indices()[:, chosen], features.values()[chosen]
    return _sparse(indices, values, features.shape), links[:, kept]


def _sparse(indices: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A matrix of entries that are sorted already."""
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)
