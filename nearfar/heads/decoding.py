"""How a language model's space wants to be decoded, kept with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nearfar.errors import check_between


class ContrastiveDecoding(nn.Module):
    """Settings of contrastive search (see `nearfar.steer.contrastive_search`), and the audit behind them.

    Args:
        k: candidates of a step.
        alpha: weight of the degeneration penalty, in [0, 1].
        layers: layers that `isotropy` tells of; 0 where nothing was audited.

    Attributes:
        isotropy: of token states, one value a layer, input embeddings first [layers].
    """

    isotropy: torch.Tensor

    def __init__(self, k: int = 5, alpha: float = 0.6, layers: int = 0) -> None:
        super().__init__()
        check_between(1, math.inf, k=k)
        check_between(0, 1, alpha=alpha)
        self.k, self.alpha = k, alpha
        self.register_buffer("isotropy", torch.zeros(layers))

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build it again."""
        settings = {"k": self.k, "alpha": self.alpha, "layers": len(self.isotropy)}
        return {"class": type(self).__name__, **settings}
