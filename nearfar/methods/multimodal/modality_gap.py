"""Two towers whose modality gap is kept small by the temperature or by swapping features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nearfar.data.kinds import Image, Text
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.towers import linear_towers
from nearfar.errors import check_between
from nearfar.method import Batch, Method
from nearfar.objectives import Temperature, info_nce
from nearfar.space import Space


class ModalityGap(Method):
    """CLIP with the mitigations of the modality gap: temperature schedules and feature swapping.

        loss = 1/2 [ CE(X Y^T / t) + CE(Y X^T / t) ]        gap = || mean(X) - mean(Y) ||, unit rows [B, d]

    With a learned t = exp(-nu) the gap closes only like 1/log(time)^2, since 1/t grows and freezes it.
    Temperature, from the same starting value for every kind:

        exp         t = exp(-nu), learned: plain CLIP, the baseline
        linear      t rises from `temperature` to `final_temperature` over training (TS)
        softplus    1/t = log(1 + exp(nu)), learned (TR)
        scaled_exp  1/t = exp(nu / 10), learned (TR with s = 10, ours)
        fixed       t stays (FLT)

    SLRT is `temperature_lr` 0.1 with exp. Swapping acts on a share `swap_share` of the steps, on the unit
    rows before the loss, with gradient: "hard" exchanges X[i,j] and Y[i,j] independently with probability
    1/2; "soft" replaces X by l X + (1 - l) Y and Y by l Y + (1 - l) X, l uniform in [0, 1] for each entry.
    Rows are normalised again afterwards. Reconstructed: that l is the same for both sides, and the
    renormalisation (no official code was found).

    Args:
        dim: d, width of the shared space.
        temperature: t at the start.
        final_temperature: t at the end, for "linear" only (S0 to S3 of the paper: 0.02, 0.03, 0.04, 0.05).
        temperature_kind: which of the above.
        temperature_lr: factor on the learning rate of a learned temperature.
        swap: which features are exchanged.
        swap_share: share of the steps on which they are (the paper's best: 0.001 hard, 0.05 soft).

    Yaras, Chen, Wang, Qu. "Explaining and Mitigating the Modality Gap in Contrastive Multimodal Learning." CPAL 2025.
    """

    reads = {"image": Image, "text": Text}

    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        dim: int = 512,
        temperature: float = 0.01,
        final_temperature: float = 0.05,
        temperature_kind: Literal["exp", "linear", "softplus", "scaled_exp", "fixed"] = "linear",
        temperature_lr: float = 1.0,
        swap: Literal["none", "hard", "soft"] = "none",
        swap_share: float = 0.05,
    ) -> None:
        super().__init__()
        check_between(0, 1, swap_share=swap_share)
        self.towers = linear_towers({"image": image, "text": text}, dim)
        final = final_temperature if temperature_kind == "linear" else None
        self.temperature = Temperature(
            temperature_kind, temperature, final=final, minimum=0.01, lr_mult=temperature_lr
        )
        self.swap = swap
        self.swap_share = swap_share

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return self.towers.embed(batch)

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        x, y = z["image"], z["text"]
        if self.swap != "none" and self.training and float(torch.rand(())) < self.swap_share:
            x, y = swap_features(x, y, hard=self.swap == "hard")
        return {"info_nce": info_nce(x, y, temperature=self.temperature(), symmetric=True)}

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        self.temperature.set_progress(step / steps)

    def space(self) -> Space:
        return Space(*self.towers.parts())


def swap_features(x: Tensor, y: Tensor, *, hard: bool) -> tuple[Tensor, Tensor]:
    """Exchange entries of two modalities' unit rows, wholly (hard) or in part (soft).

    Args:
        x: first modality [B, d].
        y: second modality [B, d].
        hard: exchange entries with probability 1/2; otherwise mix them in random proportion.

    Returns:
        Unit rows; every entry of x + y is kept up to the normalisation of rows.
    """
    x, y = torch.nn.functional.normalize(x, dim=-1), torch.nn.functional.normalize(y, dim=-1)
    kept = torch.rand_like(x)
    if hard:
        kept = (kept < 0.5).to(x.dtype)
    mixed = kept * x + (1 - kept) * y, kept * y + (1 - kept) * x
    return torch.nn.functional.normalize(mixed[0], dim=-1), torch.nn.functional.normalize(mixed[1], dim=-1)
