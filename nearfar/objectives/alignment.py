"""How close positive pairs are."""

from __future__ import annotations

from torch import Tensor, linalg

from nearfar.errors import ArgumentError
from nearfar.geometry import unit_rows
from nearfar.objectives.inputs import check_alike, check_same_shape


def alignment(x: Tensor, y: Tensor, alpha: float = 2) -> Tensor:
    """Mean distance of positive pairs on the unit sphere: mean_i |x_i - y_i|^alpha.

    Wang, Isola. "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere." ICML 2020, eq. 3. Rows are scaled to length one here.

    Args:
        x: [N, d].
        y: [N, d]; row i of both is a positive pair.
        alpha: exponent of the distance, above 0; 2 gives 2 - 2 cos.

    Raises:
        ArgumentError: shapes, types or devices differ, a row is zero or not finite, or alpha is not above 0.
    """
    check_alike({"x": x, "y": y})
    check_same_shape(x, y)
    if not alpha > 0 or len(x) == 0:
        raise ArgumentError(f"alignment needs pairs and alpha above 0, got {len(x)} pairs and alpha={alpha}")
    apart = unit_rows(x, "x") - unit_rows(y, "y")
    if alpha == 2:
        return apart.square().sum(dim=-1).mean()
    distance = linalg.vector_norm(apart, dim=-1)
    # Below alpha = 1 the slope at distance 0 is infinite; a pair that agrees has nothing to gain.
    return distance.where(distance > 0, 1).pow(alpha).where(distance > 0, 0).mean()
