"""Random shifts of pictures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.views.image import random_shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_shift_is_padding_with_the_border_and_a_crop_at_a_whole_pixel() -> None:
    images = torch.rand(40, 2, 6, 7, generator=generator(1))
    shifted = random_shift(images, generator(), pad=2)
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    found = set()
    for image, moved in zip(padded, shifted, strict=True):
        places = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(image[:, y : y + 6, x : x + 7], moved)
        ]
        assert len(places) == 1, "one shift for all channels, of whole pixels"
        found.add(places[0])
    assert {y for y, _ in found} == {x for _, x in found} == set(range(5)), "every shift occurs, both ways"
    assert len(found) > 12, "vertical and horizontal shifts are independent"


def test_every_draw_and_every_picture_has_its_own_shift() -> None:
    same = torch.rand(1, 3, 8, 8, generator=generator(1)).expand(32, -1, -1, -1)
    draw = generator()
    one, two = random_shift(same, draw), random_shift(same, draw)
    assert len({tuple(picture.flatten().tolist()) for picture in one}) > 8
    assert not torch.equal(one, two)
    assert torch.equal(one, random_shift(same, generator()))
    assert torch.equal(random_shift(same, draw, pad=0), same)


def test_what_cannot_be_shifted_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"\[B, C, H, W\]"):
        random_shift(torch.rand(3, 8, 8), generator())
    with pytest.raises(ArgumentError, match="pad must be between 0 and 7"):
        random_shift(torch.rand(1, 3, 8, 8), generator(), pad=8)
