"""Generators and prototypes, as parts that any method may use."""

from __future__ import annotations

import pytest
import torch

from nearfar.errors import ArgumentError
from nearfar.heads import make_head
from nearfar.heads.decoders.layered import LayeredGenerator, random_warps
from nearfar.heads.prototypes import Prototypes


@pytest.mark.parametrize("size", [4, 5, 7, 8, 14, 28, 32])
def test_a_generator_draws_pictures_of_any_size(size: int) -> None:
    generator = LayeredGenerator(3, size, width=16, noise=5, cluster_noise=2)
    drawn = generator(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]), torch.randn(4, 2))
    assert drawn.picture.shape == drawn.foreground.shape == drawn.background.shape == (4, 3, size, size)
    assert drawn.mask.shape == (4, 1, size, size)
    assert drawn.picture.abs().max() <= 1


def test_channels_halve_while_the_grid_doubles() -> None:
    """At 128 pixels and width 512 the release ends with 16 channels, and so does this."""
    convolutions = [m for m in LayeredGenerator(2, 128).base if isinstance(m, torch.nn.Sequential)]
    assert [block[0].weight.shape[0] // 2 for block in convolutions] == [256, 128, 64, 32, 16]


def test_warps_stay_in_their_ranges_and_are_turns_with_a_scale() -> None:
    torch.manual_seed(0)
    warps = random_warps(500, (0.8, 1.5), 15.0, 0.15)
    linear, shift = warps[:, :, :2], warps[:, :, 2]
    scale = torch.linalg.det(linear).sqrt()
    eye = torch.eye(2).expand(500, 2, 2)
    torch.testing.assert_close(linear @ linear.mT, scale.square()[:, None, None] * eye, atol=1e-5, rtol=1e-5)
    assert 0.8 <= scale.min() < 0.85
    assert 1.45 < scale.max() <= 1.5
    degrees = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0]))
    assert 13 < degrees.abs().max() <= 15
    assert 0.13 < shift.abs().max() <= 0.15


def test_a_space_finds_both_by_name() -> None:
    for part in (Prototypes(6, 3), LayeredGenerator(3, 8, 16, 5, 2)):
        again = make_head(part.settings())
        again.load_state_dict(part.state_dict())
        assert type(again) is type(part)
        assert again.settings() == part.settings()


def test_prototypes_are_as_far_apart_as_can_be_and_give_the_nearest() -> None:
    prototypes = Prototypes(6, 3)
    cosines = prototypes(prototypes.rows.detach())
    torch.testing.assert_close(cosines, torch.eye(3), atol=1e-5, rtol=1e-5)
    z = torch.randn(7, 6)
    with torch.no_grad():
        prototypes.rows.mul_(torch.tensor([[0.1], [5.0], [1.0]]))
    assert torch.equal(prototypes.assign(z), prototypes.assign(9 * z)), "neither length matters"
    assert prototypes.assign(prototypes.rows).tolist() == [0, 1, 2]
    with pytest.raises(ArgumentError, match="at least two"):
        Prototypes(6, 1)
