"""Hyperbolic space in the Lorentz model: points by their space components, the time component follows.

    x = (x_space, x_time) with <x, x>_L = -1/c,  x_time = sqrt(1/c + |x_space|^2)         c > 0: minus the curvature

Nickel, Kiela. "Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry." ICML 2018; written
for embeddings as here in Desai et al. "Hyperbolic Image-Text Representations." ICML 2023, eq. 1 to 6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.geometry.rows import at_least_float32
from nearfar.geometry.scores import dot


def lorentz_inner(a: Tensor, b: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """<a_i, b_j>_L = a_space . b_space - a_time b_time, never above -1/c.

    Args:
        a: space components [..., N, d].
        b: space components [..., M, d].
        curvature: c, above 0.

    Returns:
        [..., N, M], float32 or float64.
    """
    a, b = at_least_float32(a), at_least_float32(b)
    return dot(a, b) - _time(a, curvature)[..., :, None] * _time(b, curvature)[..., None, :]


def negative_lorentz_distance(a: Tensor, b: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """-arccosh(-c <a_i, b_j>_L) / sqrt(c): minus the length of the geodesic.

    Where two points agree the slope of the distance is not defined; there it is that of a small distance.

    Args:
        a: space components [..., N, d].
        b: space components [..., M, d].
        curvature: c, above 0.

    Returns:
        [..., N, M], float32 or float64.
    """
    inner = -curvature * lorentz_inner(a, b, curvature)
    # At 1 the slope of arccosh is infinite; rounding may even leave the inner product below 1.
    apart = inner.clamp(min=1 + 4 * torch.finfo(inner.dtype).eps)
    return -torch.acosh(apart) / curvature**0.5


def _time(x: Tensor, curvature: float | Tensor) -> Tensor:
    return (1 / curvature + x.square().sum(-1)).sqrt()
