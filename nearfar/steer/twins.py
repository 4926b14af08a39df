"""What a picture would look like without what is salient in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nearfar.errors import ArgumentError
from nearfar.heads.decoders.convolutional import ConvDecoder
from nearfar.space import Space


@torch.inference_mode()
def common_twins(space: Space, pictures: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
    """Decode pictures from their common latents alone, all salient ones zero: the healthy twin of a patient.

    Args:
        space: with a modality "common" and a part "decoder", which reads salient latents after the common ones, as
            `sepvae` makes it.
        pictures: N pictures, of either population.
        batch_size: pictures encoded and decoded at once.

    Returns:
        float32 [N, 3, height, width] in [0, 1], in the size that the decoder draws.

    Raises:
        ArgumentError: the space has no common modality or no decoder, or there are no pictures.
    """
    decoder = space.parts.get("decoder")
    if "common" not in space.modalities or not isinstance(decoder, ConvDecoder):
        raise ArgumentError(
            "twins need a space with a modality 'common' and a decoder, as `nearfar fit sepvae` makes; this one has "
            f"{', '.join(space.modalities)}"
        )
    common = torch.from_numpy(space.encode(pictures, "common", batch_size=batch_size, normalize=False))
    device = next(decoder.parameters()).device
    drawn = []
    for c in common.to(device).split(batch_size):
        nothing = c.new_zeros(len(c), decoder.dim - c.shape[1])
        drawn.append(decoder(torch.cat([c, nothing], dim=1)).float().cpu())
    return torch.cat(drawn).numpy()
