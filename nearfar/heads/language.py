"""From hidden states back to words."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
"""Label of a position that is not to be predicted (PyTorch's `ignore_index`)."""


class MLMHead(nn.Module):
    """Hidden states to logits over the vocabulary, with the input embeddings as output matrix.

        logits = LayerNorm(gelu(W h + b)) E^T + c

    Devlin et al. "BERT." NAACL 2019 (its released head).

    Args:
        dim: width of the states.
        vocabulary: rows of E.
        eps: of the norm.
    """

    def __init__(self, dim: int, vocabulary: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """States [..., d] and E [V, d] to logits [..., V]."""
        return functional.linear(self.norm(functional.gelu(self.dense(states))), embeddings, self.bias)
