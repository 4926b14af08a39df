"""The lift onto the hyperboloid and the cones: the official figures, their identities, and where they could break."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import (
    SCORES,
    entails,
    exterior_angle,
    half_aperture,
    lorentz_exp0,
    lorentz_inner,
    lorentz_log0,
    negative_lorentz_distance,
)
from nearfar.objectives import cone_entailment, info_nce

U = torch.tensor([[0.3, -0.2, 0.5], [-0.7, 0.4, 0.1], [1.2, 0.9, -0.6]], dtype=torch.float64)
V = torch.tensor([[0.9, -0.5, 1.1], [0.2, -0.3, 0.8], [2.0, 1.4, -1.1]], dtype=torch.float64)
OFFICIAL: dict[float, dict[str, Any]] = {
    0.1: {
        "x": [[0.30190361, -0.20126908, 0.50317269], [-0.70772545, 0.40441454, 0.10110364]],
        "distance": [[0.90030202, 0.33278311, 2.84505402], [2.09796083, 1.34373907, 3.1382328]],
        "aperture": [1.57065491, 0.87884258, 0.38434866],
        "angle": [0.23714462, 2.47139032, 0.14519419],
    },
    1.0: {
        "x": [[0.31936428, -0.21290952, 0.53227381], [-0.7795813, 0.44547503, 0.11136876]],
        "distance": [[0.90320733, 0.34331996, 2.93161912], [2.14584108, 1.38849319, 3.23470924]],
        "aperture": [0.30969758, 0.22289313, 0.08287853],
        "angle": [0.28908972, 2.60413998, 0.29506002],
    },
    10.0: {
        "x": [[0.52954468, -0.35302978, 0.88257446], [-1.76791946, 1.01023969, 0.25255992]],
        "distance": [[0.95533573, 0.48473998, 3.12099118], [2.24664351, 1.5437281, 3.38621056]],
        "aperture": [0.05815696, 0.03082921, 0.00241738],
        "angle": [0.90310589, 3.02408883, 2.68817837],
    },
}
"""What exp_map0, pairwise_dist, half_aperture and oxy_angle of facebookresearch/meru gave for U and V, by curvature."""
CURVATURES = sorted(OFFICIAL)


def close(found: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=2e-8)


@pytest.mark.parametrize("c", CURVATURES)
def test_figures_of_the_official_code(c: float) -> None:
    x, y = lorentz_exp0(U, c), lorentz_exp0(V, c)
    close(x[:2], OFFICIAL[c]["x"])
    close(-negative_lorentz_distance(x, y, c)[:2], OFFICIAL[c]["distance"])
    # At the smallest curvature the first apex lies inside of the radius, where arcsin is held just below 1.
    torch.testing.assert_close(
        half_aperture(x, c), torch.tensor(OFFICIAL[c]["aperture"], dtype=torch.float64), atol=2e-6, rtol=0
    )
    close(exterior_angle(x, y, c), OFFICIAL[c]["angle"])


@pytest.mark.parametrize("c", CURVATURES)
def test_the_logarithm_undoes_the_exponential_and_lengths_are_distances(c: float) -> None:
    for u in (U, 1e-6 * U, V):
        x = lorentz_exp0(u, c)
        torch.testing.assert_close(lorentz_log0(x, c), u, rtol=1e-9, atol=1e-15)
    origin = torch.zeros(1, 3, dtype=torch.float64)
    away = -negative_lorentz_distance(lorentz_exp0(U, c), origin, c)[:, 0]
    torch.testing.assert_close(away, U.norm(dim=1), rtol=1e-9, atol=0)


def test_at_vanishing_curvature_the_lift_and_distances_are_euclidean() -> None:
    x, y = lorentz_exp0(U, 1e-8), lorentz_exp0(V, 1e-8)
    torch.testing.assert_close(x, U, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        -negative_lorentz_distance(x, y, 1e-8), torch.cdist(U, V), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("c", CURVATURES)
def test_a_space_scaled_to_curvature_one_keeps_ratios_of_distances_and_all_cones(c: float) -> None:
    x, y = lorentz_exp0(U, c), lorentz_exp0(V, c)
    one, two = c**0.5 * x, c**0.5 * y
    close(SCORES["lorentz"](one, two), c**0.5 * negative_lorentz_distance(x, y, c))
    # The guards of 1e-8 stand beside quantities that scale.
    torch.testing.assert_close(half_aperture(one), half_aperture(x, c), rtol=0, atol=1e-6)
    torch.testing.assert_close(exterior_angle(one, two), exterior_angle(x, y, c), rtol=0, atol=1e-6)
    close(lorentz_exp0(c**0.5 * U), one)


def test_what_lies_further_out_on_the_ray_is_entailed_and_what_lies_further_in_is_not() -> None:
    for c in CURVATURES:
        near, far = lorentz_exp0(U, c), lorentz_exp0(1.7 * U, c)
        outwards, inwards = exterior_angle(near, far, c), exterior_angle(far, near, c)
        # arccos near 1 turns rounding of 1e-16, and the guard of 1e-8, into their square roots.
        assert float(outwards.max()) < 1e-3
        assert float(inwards.min()) > math.pi - 1e-3
        assert bool(entails(near, far, c).all())
        assert not bool(entails(far, near, c)[1:].any())


def test_cones_narrow_outwards_and_the_angle_is_that_of_the_triangle() -> None:
    ray = torch.linspace(0.25, 4, 9, dtype=torch.float64)[:, None] * torch.tensor([[0.6, 0.8, 0.0]])
    assert bool((half_aperture(lorentz_exp0(ray)).diff() < 0).all())
    # Hyperbolic law of cosines: cosh a = cosh b cosh e - sinh b sinh e cos(angle at x), pi minus which is phi.
    x, y = lorentz_exp0(U), lorentz_exp0(V)
    b, a = U.norm(dim=1), V.norm(dim=1)
    e = -negative_lorentz_distance(x, y).diagonal()
    inner = (b.cosh() * e.cosh() - a.cosh()) / (b.sinh() * e.sinh())
    torch.testing.assert_close(exterior_angle(x, y), math.pi - inner.acos(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_origin_at_coincident_points_and_on_the_axis(dtype: torch.dtype) -> None:
    u = torch.stack([torch.zeros(3), U[0].float(), U[0].float(), 2 * U[1].float()]).to(dtype).requires_grad_()
    v = torch.stack([U[0].float(), U[0].float(), torch.zeros(3), U[1].float()]).to(dtype).requires_grad_()
    c = torch.tensor(0.7, dtype=dtype, requires_grad=True)
    x, y = lorentz_exp0(u, c), lorentz_exp0(v, c)
    terms = (
        cone_entailment(x, y, c),
        cone_entailment(y, x, c),
        negative_lorentz_distance(x, y, c).sum(),
        lorentz_log0(x, c).sum(),
    )
    for term in terms:
        assert bool(torch.isfinite(term))
        for gradient in torch.autograd.grad(term, (u, v, c), retain_graph=True, allow_unused=True):
            assert gradient is None or bool(torch.isfinite(gradient).all())
    (at_origin,) = torch.autograd.grad(lorentz_exp0(u, c)[0].sum(), u)
    (
        torch.testing.assert_close(at_origin[0], torch.ones(3, dtype=dtype)),
        "the slope at the origin is that of u",
    )


def test_a_far_point_stays_on_its_ray_within_float32() -> None:
    u = 1e4 * U.float()
    x = lorentz_exp0(u)
    torch.testing.assert_close(x.norm(dim=1), torch.full((3,), 2.0**15), rtol=1e-4, atol=0)
    torch.testing.assert_close(x / x.norm(dim=1, keepdim=True), u / u.norm(dim=1, keepdim=True))
    assert bool(torch.isfinite(lorentz_inner(x, x)).all())


def test_autocast_and_half_precision_change_nothing_but_the_inputs() -> None:
    u, v = U.bfloat16(), V.bfloat16()
    x, y = lorentz_exp0(u.float()), lorentz_exp0(v.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lorentz_exp0(u), x)
        assert torch.equal(lorentz_inner(x, y), lorentz_inner(x, y))
        assert lorentz_inner(x, y).dtype == torch.float32
        found = [cone_entailment(x, y), negative_lorentz_distance(x, y), lorentz_log0(x)]
    for one, other in zip(
        found, [cone_entailment(x, y), negative_lorentz_distance(x, y), lorentz_log0(x)], strict=True
    ):
        assert torch.equal(one, other)


def test_the_entailment_loss_is_zero_inside_and_has_a_direction() -> None:
    general, specific = lorentz_exp0(U), lorentz_exp0(1.5 * U)
    assert float(cone_entailment(general, specific)) == 0
    assert float(cone_entailment(specific, general)) > 2
    x, y = lorentz_exp0(U), lorentz_exp0(V)
    by_hand = [
        max(0.0, a - p) for a, p in zip(OFFICIAL[1.0]["angle"], OFFICIAL[1.0]["aperture"], strict=True)
    ]
    close(cone_entailment(x, y), sum(by_hand) / 3)
    assert by_hand[1] > 0
    assert by_hand[0] == 0, "a mean that lets what is inside make up for what is outside would be smaller"


def test_a_larger_radius_widens_cones() -> None:
    x, y = lorentz_exp0(U), lorentz_exp0(V)
    assert bool((half_aperture(x, min_radius=0.3) > half_aperture(x)).all())
    assert float(cone_entailment(x, y, min_radius=0.3)) < float(cone_entailment(x, y))


def test_wrong_pairs_are_refused() -> None:
    x = lorentz_exp0(U)
    with pytest.raises(ArgumentError, match="row 2"):
        cone_entailment(x, torch.where(torch.arange(3)[:, None] == 1, torch.nan, x))
    with pytest.raises(ArgumentError):
        cone_entailment(x, x[:2])
    with pytest.raises(ArgumentError, match="at least one"):
        cone_entailment(x[:0], x[:0])
    with pytest.raises(ArgumentError, match="score"):
        info_nce(x, x, temperature=1.0, score="lorentz")  # type: ignore[arg-type]
