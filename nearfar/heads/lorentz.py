"""From features to points of hyperbolic space."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from nearfar.geometry import lorentz_exp0
from nearfar.heads.projection import Projection


class LorentzHead(nn.Module):
    """A linear map, scaled and lifted onto the hyperboloid of curvature -1: x = exp_0(scale (W h + b)).

    A point of curvature -c times sqrt(c) is one of curvature -1, and distances grow by the same factor. So one
    scale holds what training learns apart: alpha, for the length of features, and the curvature.

    Desai et al. "Hyperbolic Image-Text Representations." ICML 2023.

    Args:
        dims: widths (in, out).
    """

    scale: Tensor

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self._set(Projection(*dims, kind="linear"), torch.ones(()))

    @classmethod
    def of(cls, projection: Projection, alpha: Tensor, curvature: Tensor) -> Self:
        """The head for a trained projection, which it shares: scale = alpha sqrt(c), as they are now.

        Args:
            projection: of kind "linear".
            alpha: factor on its outputs, a scalar.
            curvature: c, a scalar.
        """
        head = cls(*projection.dims)
        head._set(projection, (alpha * curvature.sqrt()).detach().clone())
        return head.train(projection.training)

    def _set(self, projection: Projection, scale: Tensor) -> None:
        self.projection = projection
        self.register_buffer("scale", scale)

    def forward(self, h: Tensor) -> Tensor:
        """Features [..., dims[0]] to space components [..., dims[1]] in float32."""
        return lorentz_exp0(self.projection(h).float() * self.scale)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "LorentzHead", "dims": list(self.projection.dims)}
