"""How central each node of a graph is.

Links are int64 [2, E], a node and its neighbour; node i receives from the neighbours that it lists.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 200
"""Rounds of the two iterations below: both have long converged then, but where two eigenvalues nearly agree."""


def degree(links: Tensor, n: int) -> Tensor:
    """Neighbours of each of `n` nodes: float64 [n]."""
    return torch.bincount(links[0], minlength=n).double()


def pagerank(links: Tensor, n: int, restart: float = 0.15, seed: Tensor | None = None) -> Tensor:
    """Where a walker is found who starts anew with probability `restart` at each step: float64 [n], sum 1.

        p = restart s + (1 - restart) (W p + (share of p at nodes without a way out) s)

    with W_ij = 1 / (number of nodes that list j) where i lists j.

    Brin, Page. "The Anatomy of a Large-Scale Hypertextual Web Search Engine." 1998.

    Args:
        links: [2, E].
        n: nodes.
        restart: probability of starting anew, in (0, 1].
        seed: where walks start, [n] with sum 1; None: anywhere.
    """
    start = torch.full((n,), 1 / n, dtype=torch.float64) if seed is None else seed.double()
    ways = torch.bincount(links[1], minlength=n).double().clamp(min=1)
    p = start
    for _ in range(STEPS):
        moved = torch.zeros_like(p).index_add(0, links[0], (p / ways)[links[1]])
        p = restart * start + (1 - restart) * (moved + (1 - moved.sum()) * start)
    return p


def eigenvector_centrality(links: Tensor, n: int) -> Tensor:
    """Entries of the leading eigenvector of the adjacency matrix, not negative, of length 1: float64 [n].

    0 in all components of the graph but the densest.

    Bonacich. "Factoring and Weighting Approaches to Status Scores and Clique Identification." 1972.
    """
    x = torch.full((n,), n**-0.5, dtype=torch.float64)
    for _ in range(STEPS):
        # Adding x shifts all eigenvalues by 1: without it a bipartite graph makes the iteration swing.
        x = x.index_add(0, links[0], x[links[1]])
        x = x / x.norm()
    return x
