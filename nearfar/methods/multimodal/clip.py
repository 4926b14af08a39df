"""CLIP: two towers, one space. The plain baseline of the multimodal methods."""

from __future__ import annotations

from torch import Tensor

from nearfar.data.kinds import Image, Text
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.towers import linear_towers
from nearfar.method import Batch, Method
from nearfar.objectives import Temperature, info_nce
from nearfar.space import Space


class CLIP(Method):
    """A picture and its text are near; it and every other text of the batch are far, and the other way round.

        loss = 1/2 [ CE(s X Y^T) + CE(s Y X^T) ]        x, y unit rows [B, d], s = 1/t = exp(nu) <= 100

    Two encoders, a linear head on each, a learned temperature. A baseline: not one of the methods that the
    library was built for.

    Args:
        dim: d, width of the shared space.
        temperature: t at the start.

    Radford et al. "Learning Transferable Visual Models From Natural Language Supervision." ICML 2021.
    """

    reads = {"image": Image, "text": Text}

    def __init__(self, image: Encoder, text: Encoder, dim: int = 512, temperature: float = 0.07) -> None:
        super().__init__()
        self.towers = linear_towers({"image": image, "text": text}, dim)
        self.temperature = Temperature("exp", temperature, minimum=0.01)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.towers.embed(batch)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"info_nce": info_nce(z["image"], z["text"], temperature=self.temperature(), symmetric=True)}

    def space(self) -> Space:
        return Space(*self.towers.parts())
