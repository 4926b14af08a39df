"""From vectors to discrete codes, with a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.objectives.codes import perplexity

WINDOW = 100
"""A code that no position chose in so many training steps is dead."""


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of M vectors.

    Attributes:
        vectors: concatenated codes of the groups, [M, out].
        codes: number of the chosen code in each group, int64 [M, G].
        probabilities: softmax of the logits, without noise and temperature, [M, G, V].
    """

    vectors: Tensor
    codes: Tensor
    probabilities: Tensor


class GumbelQuantiser(nn.Module):
    """A product of G codebooks of V codes each, chosen by Gumbel noise in training.

        l = W x + b                                                        [M, G, V]
        p_gv = softmax over v of (l_gv + n_gv) / tau,  n = -log(-log u), u ~ U(0, 1)
        q = concatenation over g of e_(g, argmax_v p_gv)                   [M, out]

    Forward the argmax, backward the gradient of p (straight-through). In evaluation mode there is neither noise
    nor temperature: the argmax of l.

    Baevski et al. "wav2vec 2.0." NeurIPS 2020, eq. 1, after Jang, Gu, Poole. "Categorical Reparameterization with
    Gumbel-Softmax." ICLR 2017.

    Args:
        dims: widths of x and of q.
        groups: G.
        codes: V.

    Raises:
        ArgumentError: not two widths, or G does not divide that of q.
    """

    idle: Tensor
    usage: Tensor

    def __init__(self, *dims: int, groups: int = 2, codes: int = 320) -> None:
        super().__init__()
        if len(dims) != 2 or groups < 1 or codes < 2 or dims[1] % groups:
            raise ArgumentError(
                f"GumbelQuantiser takes two widths, the second a multiple of groups, and at least 2 codes, got "
                f"widths {dims}, {groups} groups and {codes} codes"
            )
        self.dims, self.groups, self.codes = dims, groups, codes
        self.logits = nn.Linear(dims[0], groups * codes)
        nn.init.normal_(self.logits.weight)  # as released: wide logits, so that the first choices differ
        nn.init.zeros_(self.logits.bias)
        self.codebook = nn.Parameter(torch.rand(groups, codes, dims[1] // groups))
        self.register_buffer("idle", torch.zeros(groups, codes, dtype=torch.long))
        self.register_buffer("usage", torch.zeros(groups, codes))

    def forward(self, x: Tensor, temperature: float = 1.0) -> Quantised:
        """Quantise x [M, dims[0]] at `temperature` (tau, in training mode only)."""
        logits = self.logits(x).float().view(-1, self.groups, self.codes)
        if self.training:
            chosen = functional.gumbel_softmax(logits, tau=temperature, hard=True)
        else:
            chosen = functional.one_hot(logits.argmax(dim=-1), self.codes).to(logits.dtype)
        if self.training:
            self._count(chosen.detach().sum(dim=0))
        vectors = torch.einsum("mgv,gvd->mgd", chosen.to(self.codebook.dtype), self.codebook).flatten(1)
        return Quantised(vectors, chosen.argmax(dim=-1), logits.softmax(dim=-1))

    def _count(self, chosen: Tensor) -> None:
        self.idle += 1
        self.idle[chosen > 0] = 0
        self.usage.lerp_(chosen / chosen.sum(dim=1, keepdim=True).clamp(min=1), 1 / WINDOW)

    @property
    def dead(self) -> Tensor:
        """Codes of each group that no position chose in the last `WINDOW` training steps: int64 [G]."""
        return (self.idle >= WINDOW).sum(dim=1)

    @property
    def perplexity(self) -> Tensor:
        """Of the codes chosen in about the last `WINDOW` training steps: [G], from 1 to V."""
        return perplexity(self.usage / self.usage.sum(dim=1, keepdim=True).clamp(min=1e-7))

    def told(self) -> str:
        """How the codebooks are used, in one sentence."""
        groups = "; ".join(
            f"group {g + 1}: perplexity {float(p):.1f} of {self.codes}, {int(d)} dead"
            for g, (p, d) in enumerate(zip(self.perplexity, self.dead, strict=True))
        )
        return f"codes chosen in the last {WINDOW} steps: {groups}"

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {
            "class": "GumbelQuantiser",
            "dims": list(self.dims),
            "groups": self.groups,
            "codes": self.codes,
        }
