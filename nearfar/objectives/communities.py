"""Communities of a graph as part of a loss: dense inside, and nearer to a node than others.

Li, Jing, Tong. "Graph Communal Contrastive Learning." WWW 2022.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from nearfar.geometry import SCORES
from nearfar.objectives.info_nce import info_nce
from nearfar.objectives.pairing import Pairing


def edge_density(shares: Tensor, links: Tensor, between: float = 1.0) -> Tensor:
    """DeCA: few links between communities, many inside, and rows that are not all on one community.

        [ l (sum F - tr F) - (n - 1) tr F ] / (n (n - 1)) + tr(R^T R) / (2 n),        F = R^T A R  [K, K]

    The last term softens rows and does not balance sizes (it is 1/2 for any assignment to single communities),
    and one community of all nodes is nearly always the smallest value: watch the sizes, or add `imbalance`.

    Args:
        shares: R, [n, K], rows sum to 1.
        links: int64 [2, E], each direction of a link counted.
        between: l, weight of links between communities.
    """
    n = len(shares)
    reached = torch.zeros_like(shares).index_add(0, links[0], shares[links[1]])  # A R
    inside = (shares * reached).sum()
    # Rows of R sum to 1, but within rounding only: the sum of F is taken from R as it is.
    total = shares.sum(1) @ reached.sum(1)
    density = (between * (total - inside) - (n - 1) * inside) / (n * (n - 1))
    return density + shares.square().sum() / (2 * n)


def imbalance(shares: Tensor) -> Tensor:
    """log K - H(mean of the rows of R): 0 where all communities are equally large, log K where one holds all."""
    sizes = shares.mean(0)
    return math.log(shares.shape[1]) - torch.special.entr(sizes).sum()


def community_means(x: Tensor, own: Tensor, count: int) -> Tensor:
    """Mean of the rows of each community, 0 for one without rows: [count, d].

    Args:
        x: [n, d].
        own: community of each row, int64 [n].
        count: communities.
    """
    sums = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device).index_add(0, own, x)
    return sums / torch.bincount(own, minlength=count).clamp(min=1)[:, None]


def node_to_community(
    x: Tensor,
    means: Tensor,
    own: Tensor,
    *,
    temperature: float,
    gamma: float,
    similarity: Literal["dot", "rbf"] = "dot",
) -> Tensor:
    """ReSC: a node is near the mean of its community in the other view, and far from those of the others.

        mean_i -log e(x_i, c_own) / (e(x_i, c_own) + sum over l != own of w_l e(x_i, c_l))
        e(x, c) = exp(x . c / t), or exp(-|x - c|^2 / t^2) for "rbf";  w_l = exp(-gamma |c_own - c_l|^2)

    so that communities much like the own one repel most. No gradient reaches the means.

    Args:
        x: [n, d].
        means: c, of the other view, [K, d].
        own: community of each node in the other view, int64 [n].
        temperature: t.
        gamma: 0 weighs all communities alike.
        similarity: e.
    """
    means = means.detach()
    apart = -SCORES["euclidean"](means, means)
    pairing = Pairing.index(own).log_weighted(-gamma * apart[own])
    if similarity == "rbf":
        return info_nce(x, means, pairing, temperature=temperature**2, score="euclidean")
    return info_nce(x, means, pairing, temperature=temperature, score="dot")
