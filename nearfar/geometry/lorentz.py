"""Hyperbolic space in the Lorentz model: points by their space components, the time component follows.

    x = (x_space, x_time) with <x, x>_L = -1/c,  x_time = sqrt(1/c + |x_space|^2)         c > 0: minus the curvature

The origin O is the point whose space components are 0. Everything is computed in float32 (float64 stays), also
inside `torch.autocast`.

Nickel, Kiela. "Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry." ICML 2018; written
for embeddings as here in Desai et al. "Hyperbolic Image-Text Representations." ICML 2023, eq. 1 to 6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.geometry.rows import at_least_float32
from nearfar.geometry.scores import dot

LONGEST = 2.0**15
"""sqrt(c) |x| of the farthest point that `lorentz_exp0` gives."""


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
    return dot(a, b) - lorentz_time(a, curvature)[..., :, None] * lorentz_time(b, curvature)[..., None, :]


def negative_lorentz_distance(a: Tensor, b: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """-arccosh(-c <a_i, b_j>_L) / sqrt(c): minus the length of the geodesic.

    Where two points agree the slope of the distance is not defined; there it is 0.

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


def lorentz_exp0(u: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """Walk from O along u, for its length: x = sinh(sqrt(c) |u|) / (sqrt(c) |u|) u.

    Args:
        u: tangent vectors at O [..., d].
        curvature: c, above 0.

    Returns:
        Space components [..., d], float32 or float64; sqrt(c) |x| is at most 2^15.
    """
    u = at_least_float32(u)
    walked = curvature**0.5 * torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    # Below: at u = 0 the ratio is 0 / 0, its limit 1. Above: sinh overflows, and so would the squares that the
    # time component needs; the point stays on its ray, as far out as squares are still told apart from 1.
    held = walked.clamp(min=1e-8, max=math.asinh(LONGEST))
    return torch.sinh(held) / walked.clamp(min=1e-8) * u


def lorentz_log0(x: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """The tangent vector at O that leads to x: `lorentz_exp0` turned round.

    Args:
        x: space components [..., d].
        curvature: c, above 0.

    Returns:
        [..., d], float32 or float64, as long as x is far from O.
    """
    x = at_least_float32(x)
    length = curvature**0.5 * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    # arcsinh of the space part is arccosh of the time part without its cancellation near O.
    return torch.asinh(length) / length.clamp(min=1e-8) * x


def lorentz_time(x: Tensor, curvature: float | Tensor = 1.0) -> Tensor:
    """The time components sqrt(1/c + |x|^2) [...] of points [..., d]."""
    return (1 / curvature + at_least_float32(x).square().sum(-1)).sqrt()
