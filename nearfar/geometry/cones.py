"""Entailment cones of hyperbolic space: the more general point is the apex, what it entails lies inside.

    psi(x)    = arcsin(2 K / (sqrt(c) |x|))                                     half the aperture of the cone at x
    phi(x, y) = arccos((y_t + x_t c<x,y>_L) / (|x| sqrt((c<x,y>_L)^2 - 1)))     pi minus the angle at x of O x y

x entails y where phi(x, y) <= psi(x). Cones narrow outwards, and at the origin O all is entailed. c > 0 is minus the
curvature, and points are space components as in `nearfar.geometry.lorentz`.

Ganea et al. "Hyperbolic Entailment Cones for Learning Hierarchical Embeddings." ICML 2018, for the Lorentz model
Desai et al. "Hyperbolic Image-Text Representations." ICML 2023, eq. 7 and 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.geometry.lorentz import lorentz_time
from nearfar.geometry.rows import at_least_float32

MIN_RADIUS = 0.1
"""K of the paper: within 2 K / sqrt(c) of O a cone is a half-space."""


def half_aperture(x: Tensor, curvature: float | Tensor = 1.0, min_radius: float = MIN_RADIUS) -> Tensor:
    """psi(x), between 0 and pi / 2.

    Args:
        x: apexes [..., d].
        curvature: c, above 0.
        min_radius: K.

    Returns:
        [...], in radians.
    """
    x = at_least_float32(x)
    # 1e-8: at O the quotient would be infinite, and its gradient no number.
    return _inside(2 * min_radius / (curvature**0.5 * torch.linalg.vector_norm(x, dim=-1) + 1e-8)).asin()


def exterior_angle(x: Tensor, y: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """phi(x, y), between 0 (y straight outwards of x) and pi (y straight inwards).

    Args:
        x: apexes [..., d].
        y: points of the same shape, or one that broadcasts.
        curvature: c, above 0.

    Returns:
        [...], in radians. At x = O or x = y there is no angle; it is then about pi / 2, with a finite gradient.
    """
    x, y = at_least_float32(x), at_least_float32(y)
    x_time, y_time = lorentz_time(x, curvature), lorentz_time(y, curvature)
    inner = curvature * ((x * y).sum(-1) - x_time * y_time)
    # 1e-8: where x = y the root is 0, with an infinite slope, and rounding can make what is under it negative.
    far = (inner.square() - 1).clamp(min=1e-8).sqrt()
    # 1e-8: at x = O the quotient would be 0 / 0.
    return _inside((y_time + inner * x_time) / (torch.linalg.vector_norm(x, dim=-1) * far + 1e-8)).acos()


def entails(x: Tensor, y: Tensor, curvature: float | Tensor = 1.0, min_radius: float = MIN_RADIUS) -> Tensor:
    """Whether y lies in the cone of x: phi(x, y) <= psi(x).

    Args:
        x: apexes [..., d].
        y: points of the same shape, or one that broadcasts.
        curvature: c, above 0.
        min_radius: K.

    Returns:
        bool [...].
    """
    return exterior_angle(x, y, curvature) <= half_aperture(x, curvature, min_radius)


def _inside(value: Tensor) -> Tensor:
    """Within (-1, 1), at whose ends arcsin and arccos have infinite slopes.

    By 1e-8 as in the paper's code, which in float32 would be no distance: there by two steps of rounding.
    """
    edge = 1 - max(1e-8, 2 * torch.finfo(value.dtype).eps)
    return value.clamp(min=-edge, max=edge)
