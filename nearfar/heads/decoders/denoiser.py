"""A text from noisy embeddings of its tokens and one vector of the whole, all positions at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError, check_between


class Denoiser(nn.Module):
    """Blocks of a Transformer's decoder that see every position, in which one vector is all the memory.

        x_0 = Dropout_p(T)                                                 T: [B, L, d], e: [B, d]
        a = norm(x + SelfAttention(x))      b = norm(a + W_o W_v e)      x' = norm(b + W_2 relu(W_1 b))

    There is no causal mask: no position is told what came before it, and nothing but e tells what the noise took.
    Over a single memory vector every weight of cross attention is exactly 1, whatever is asked, so b needs no
    queries and keys; the release, which has PyTorch's decoder, keeps them and computes the same. Dropout is where
    PyTorch's decoder has it: on attention weights, in the inner layer and after every part.

    Wang et al. "DenoSent: A Denoising Objective for Self-Supervised Sentence Representation Learning." AAAI 2024.

    Args:
        dim: d.
        noise: p, the share of the entries of T that are set to 0 in training; the others grow by 1 / (1 - p).
        layers: number of blocks.
        heads: of attention.
        ffn: width of W_1.
        dropout: of the blocks.

    Raises:
        ArgumentError: a share or size is out of its range, or `heads` does not divide `dim`.
    """

    def __init__(
        self,
        dim: int,
        noise: float = 0.825,
        layers: int = 16,
        heads: int = 1,
        ffn: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_between(0, 1, noise=noise, dropout=dropout)
        check_between(1, math.inf, layers=layers, heads=heads, ffn=ffn)
        if dim % heads:
            raise ArgumentError(f"heads={heads} does not divide the width {dim}")
        self.noise = nn.Dropout(noise)
        self.blocks = nn.ModuleList(_Block(dim, heads, ffn, dropout) for _ in range(layers))

    def forward(self, embedded: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Rebuild states of B texts, without noise in evaluation mode.

        Args:
            embedded: T, what the embedding layer made of the tokens [B, L, d].
            memory: e, a vector for each text [B, d].
            mask: True where there is a token [B, L].

        Returns:
            States [B, L, d]; those of padding mean nothing.
        """
        x = self.noise(embedded)
        for block in self.blocks:
            x = block(x, memory, mask)
        return x


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.inward, self.outward = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.memory_in, self.memory_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        for linear in (self.outward, self.memory_out, self.wide, self.narrow):
            nn.init.normal_(linear.weight, std=0.02)
        nn.init.xavier_uniform_(self.inward.weight)
        # As the third part of a map of this shape, which PyTorch draws as one.
        nn.init.xavier_uniform_(self.memory_in.weight, gain=math.sqrt(0.5))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        drop, (one, two, three) = self.dropout, self.norms
        x = one(x + drop(self._attended(x, mask)))
        x = two(x + drop(self._remembered(memory, x.shape[1])))
        after: Tensor = three(x + drop(self.narrow(drop(self.wide(x).relu()))))
        return after

    def _attended(self, x: Tensor, mask: Tensor) -> Tensor:
        size, length, dim = x.shape
        parts = self.inward(x).view(size, length, 3, self.heads, dim // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(dim // self.heads)
        weights = self.dropout(scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1))
        found: Tensor = self.outward((weights @ v).transpose(1, 2).reshape(size, length, dim))
        return found

    def _remembered(self, memory: Tensor, length: int) -> Tensor:
        size, dim = memory.shape
        weights = self.dropout(
            torch.ones(size, length, self.heads, 1, device=memory.device, dtype=memory.dtype)
        )
        v = self.memory_in(memory).view(size, 1, self.heads, dim // self.heads)
        found: Tensor = self.memory_out((weights * v).view(size, length, dim))
        return found
