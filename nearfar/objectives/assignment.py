"""What makes soft assignments to clusters sharp, and clusters evenly used."""

from __future__ import annotations

from torch import Tensor

from nearfar.errors import ArgumentError


def assignment_entropy(logits: Tensor, sharp: float, balance: float) -> Tensor:
    """Every row sure of its cluster, all clusters in use: sharp * mean_i H(p_i) - balance * H(mean_i p_i).

    p_i is the softmax of row i and H the entropy in nats: 0 where a row is sure, log K where it takes all
    clusters alike. With both weights the difference is the mutual information of row and cluster, negated:
    Krause, Perona, Gomes. "Discriminative Clustering by Regularized Information Maximization." NeurIPS 2010.

    Args:
        logits: [N, K], before the softmax.
        sharp: weight of the rows' own entropies.
        balance: weight of the entropy of their mean.

    Raises:
        ArgumentError: no rows, or no matrix.
    """
    if logits.ndim != 2 or logits.numel() == 0:
        raise ArgumentError(f"assignments need logits of rows over clusters, got shape {list(logits.shape)}")
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    mean = p.mean(dim=0)
    rows = -(p * log_p).sum(dim=1).mean()
    # A cluster that no row takes at all adds 0 and asks for nothing: p log p has slope -infinity there.
    together = -(mean * mean.clamp_min(1e-12).log()).sum()
    return sharp * rows - balance * together
