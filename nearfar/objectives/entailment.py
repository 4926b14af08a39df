"""How far points are outside the cones that should hold them."""

from __future__ import annotations

from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import exterior_angle, finite_rows, half_aperture
from nearfar.geometry.cones import MIN_RADIUS
from nearfar.objectives.inputs import check_alike, check_same_shape


def cone_entailment(
    general: Tensor,
    specific: Tensor,
    curvature: float | Tensor = 1.0,
    min_radius: float = MIN_RADIUS,
) -> Tensor:
    """mean_i max(0, phi(general_i, specific_i) - psi(general_i)): 0 where every cone holds its point.

    Desai et al. "Hyperbolic Image-Text Representations." ICML 2023, eq. 9, where a text is more general than its
    picture. The order of the arguments matters; phi and psi are those of `nearfar.geometry.cones`.

    Args:
        general: space components of the apexes [N, d].
        specific: space components of what they should entail [N, d]; row i belongs to row i.
        curvature: c, above 0.
        min_radius: K of the cones.

    Raises:
        ArgumentError: shapes, types or devices differ, there is no pair, or a row is not finite.
    """
    check_alike({"general": general, "specific": specific})
    check_same_shape(general, specific)
    if not len(general):
        raise ArgumentError("cone_entailment needs at least one pair")
    x, y = finite_rows(general, "general"), finite_rows(specific, "specific")
    return (exterior_angle(x, y, curvature) - half_aperture(x, curvature, min_radius)).clamp(min=0).mean()
