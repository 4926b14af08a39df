"""Several encoders into one space: the two towers of CLIP and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from nearfar.encoders.encoder import Encoder
from nearfar.heads.projection import Projection


class Towers(nn.Module):
    """One encoder and one head for each modality.

    Args:
        encoders: modality -> encoder.
        heads: modality -> module [B, encoder.dim] -> [B, d], with the same d for all.
    """

    def __init__(self, encoders: Mapping[str, Encoder], heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(heads)

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Embed the prepared inputs of every modality in the batch: name -> [B, d]."""
        present = [name for name in self.encoders if name in batch]
        return {name: self.heads[name](self.encoders[name](batch[name]).pooled) for name in present}

    def parts(self) -> tuple[dict[str, Encoder], dict[str, nn.Module]]:
        """Encoders and heads by modality, as `Space` takes them."""
        return {name: cast(Encoder, encoder) for name, encoder in self.encoders.items()}, dict(
            self.heads.items()
        )


def linear_towers(encoders: Mapping[str, Encoder], dim: int) -> Towers:
    """Towers with a linear head each: the form of CLIP."""
    return Towers(
        encoders, {name: Projection(encoder.dim, dim, kind="linear") for name, encoder in encoders.items()}
    )
