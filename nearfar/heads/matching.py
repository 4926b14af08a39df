"""Whether the parts of an item belong together, judged from their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError


class MatchingHead(nn.Module):
    """A transformer over an anchor's tokens that looks at those of the other parts; two logits: apart, together.

    As the data-anchor matching of GRAM (Cicchetti et al., ICLR 2025), of which depth and width are ours.

    Args:
        anchor: width of the anchor's tokens.
        others: width of the tokens of each other part.
        width: of the transformer; a multiple of 4.
        layers: of the transformer.
    """

    def __init__(self, anchor: int, others: Sequence[int], width: int = 128, layers: int = 2) -> None:
        super().__init__()
        if width % 4 or width < 4:
            raise ArgumentError(f"width={width}: the head has 4 attention heads, give a multiple of 4")
        self.of_anchor = nn.Linear(anchor, width)
        self.of_others = nn.ModuleList([nn.Linear(other, width) for other in others])
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.judge = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))

    def forward(
        self,
        anchor: tuple[Tensor, Tensor],
        others: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Judge B items.

        Args:
            anchor: tokens [B, L, d] and mask [B, L], True where a token is valid.
            others: the same of each other part.

        Returns:
            Logits [B, 2].
        """
        seen = torch.cat([map_(tokens) for map_, (tokens, _) in zip(self.of_others, others, strict=True)], 1)
        hidden = ~torch.cat([mask for _, mask in others], 1)
        states, mask = self.of_anchor(anchor[0]), anchor[1]
        for layer in self.layers:
            states = layer(states, seen, tgt_key_padding_mask=~mask, memory_key_padding_mask=hidden)
        weights = mask.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.judge((states * weights).sum(1) / weights.sum(1))
        return logits
