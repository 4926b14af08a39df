"""Views: twins differ in one pass; pictures' views come from their generator and stay pictures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError
from nearfar.views.image import image_views
from nearfar.views.text import dropout_twins

TEXTS = ["a red fox", "the old stone bridge", "rain falls"]
NOTHING: dict[str, Any] = {"crop": (1.0, 1.0), "flip": False, "jitter": 0.0, "grey": 0.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 6, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(1))


def small_text(dropout: float) -> TransformerText:
    return TransformerText.tiny(
        TEXTS, vocabulary=80, layers=1, dim=16, heads=2, ffn=16, max_length=12, dropout=dropout
    )


def test_twins_differ_and_come_from_one_pass() -> None:
    encoder = small_text(0.1).train()
    inputs = encoder.prepare(TEXTS)
    passes: list[int] = []
    encoder.model.register_forward_hook(
        lambda model, args, kwargs, out: passes.append(len(out[0])), with_kwargs=True
    )
    twins = dropout_twins(encoder, inputs, n=3)
    assert passes == [9]
    assert [twin.pooled.shape for twin in twins] == [(3, 16)] * 3
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert bool((twins[i].pooled != twins[j].pooled).any(dim=1).all())
    for twin in twins:
        assert torch.equal(twin.mask, inputs["mask"])
        assert twin.tokens.shape == (3, inputs["ids"].shape[1], 16)


def test_row_i_of_each_twin_is_example_i() -> None:
    encoder = small_text(1e-9).train()
    inputs = encoder.prepare(TEXTS)
    for twin in dropout_twins(encoder, inputs):
        torch.testing.assert_close(twin.pooled, encoder(inputs).pooled, atol=1e-5, rtol=1e-4)


def test_twins_of_vectors() -> None:
    encoder = MLPVector(4, dropout=0.5).train()
    one, two = dropout_twins(encoder, {"values": torch.randn(5, 4)})
    assert not torch.equal(one.pooled, two.pooled)


def test_equal_twins_are_an_error() -> None:
    encoder = small_text(0.1).eval()
    inputs = encoder.prepare(TEXTS)
    wrapped = copy.deepcopy(encoder)
    wrapped.training = True  # a wrapper may be in another mode than what it wraps
    with pytest.raises(ArgumentError, match=r"evaluation mode: call \.train\(\)"):
        dropout_twins(wrapped, inputs)
    with pytest.raises(ArgumentError, match=r"evaluation mode: call \.train\(\)"):
        dropout_twins(encoder, inputs)
    with pytest.raises(ArgumentError, match="has no dropout"):
        dropout_twins(small_text(0.0).train(), inputs)
    with pytest.raises(ArgumentError, match="has no dropout"):
        dropout_twins(ConvNet(8).train(), {"pixels": torch.rand(2, 3, 8, 8)})
    with pytest.raises(ArgumentError, match="n=1"):
        dropout_twins(encoder.train(), inputs, n=1)


def test_same_generator_same_views_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    settings: dict[str, Any] = {"blur": 0.5, "noise": 0.05}
    first, same = (image_views(images(), seeded(5), **settings) for _ in range(2))
    torch.manual_seed(4)
    still = image_views(images(), seeded(5), **settings)
    torch.set_rng_state(before)
    other = image_views(images(), seeded(6), **settings)
    assert torch.equal(torch.get_rng_state(), before)
    for k in range(2):
        assert torch.equal(first[k], same[k])
        assert torch.equal(first[k], still[k])
        assert not torch.allclose(first[k], other[k])
    assert bool((first[0] != first[1]).flatten(1).any(dim=1).all())


def test_views_that_change_nothing_are_the_picture() -> None:
    for view in image_views(images(), seeded(), n=3, **NOTHING):
        assert torch.equal(view, images())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blur": 1.0, "jitter": 1.0},
        {"noise": 0.5},
        {"flip": False, "jitter": 0.0, "grey": 0.0, "noise": 0.1},
    ],
)
@pytest.mark.parametrize("size", [8, 32])
def test_views_stay_in_range(settings: dict[str, Any], size: int) -> None:
    extreme = images(8, size).round()
    for view in image_views(extreme, seeded(), **settings):
        assert view.shape == extreme.shape
        assert torch.isfinite(view).all()
        assert 0 <= view.min() <= view.max() <= 1


def test_half_of_the_views_are_mirrored_and_nothing_else() -> None:
    x = images(200, 8)
    view = image_views(x, seeded(), n=1, **{**NOTHING, "flip": True})[0]
    mirrored = (view - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5
    kept = (view - x).abs().amax((1, 2, 3)) < 1e-5
    assert bool((mirrored ^ kept).all())
    assert 70 < int(mirrored.sum()) < 130


def ramp(n: int, size: int) -> Tensor:
    """Red grows to the right, green downwards, both linearly from 0 at one border to 1 at the other."""
    across = ((torch.arange(size) + 0.5) / size).expand(size, size)
    return torch.stack([across, across.T, torch.full((size, size), 0.5)]).repeat(n, 1, 1, 1)


def test_a_crop_keeps_the_drawn_area_inside_the_picture() -> None:
    size, n = 64, 300
    for low, high in ((0.25, 0.25), (0.3, 0.9)):
        view = image_views(ramp(n, size), seeded(), n=1, **{**NOTHING, "crop": (low, high)})[0]
        # The slope of a ramp, resized, is the part of the side that the crop kept.
        middle = slice(size // 4, 3 * size // 4)
        width = (view[:, 0, size // 2, middle].diff(dim=1).mean(1) * size).clamp(max=1)
        height = (view[:, 1, middle, size // 2].diff(dim=1).mean(1) * size).clamp(max=1)
        area, aspect = width * height, width / height
        assert area.min() > low - 0.02
        assert area.max() < high + 0.02
        assert aspect.min() > 0.73
        assert aspect.max() < 1.37
        assert area.std() < 1e-2 if low == high else area.std() > 0.1
        assert aspect.std() > 0.02
        centre = view[:, 0, size // 2, size // 2]
        assert (centre - width / 2).min() > -0.02
        assert (centre + width / 2).max() < 1.02
        assert centre.std() > 0.02


def test_grey_and_jitter_do_what_they_say() -> None:
    grey = image_views(images(), seeded(), n=1, **{**NOTHING, "grey": 1.0})[0]
    torch.testing.assert_close(grey[:, 0], grey[:, 1])
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(grey[:, 0], (images() * weights).sum(1), atol=1e-3, rtol=0)
    x = images(300, 8)
    jittered = image_views(x, seeded(), n=1, **{**NOTHING, "jitter": 0.4})[0]
    changed = (jittered - x).abs().amax((1, 2, 3)) > 1e-4
    assert 0.7 < float(changed.float().mean()) < 0.9
    faint = image_views(x, seeded(), n=1, **{**NOTHING, "jitter": 1e-4})[0]
    torch.testing.assert_close(faint, x, atol=2e-3, rtol=0)


def test_blur_smooths_and_noise_has_its_size() -> None:
    x = images(50, 32)
    blurred = image_views(x, seeded(), n=1, **NOTHING, blur=1.0)[0]
    assert bool((blurred.flatten(1).std(1) <= x.flatten(1).std(1) + 1e-5).all())
    assert blurred.std() < 0.9 * x.std()
    torch.testing.assert_close(blurred.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=0.02, rtol=0)
    grey = torch.full_like(x, 0.5)
    noisy = image_views(grey, seeded(), n=1, **NOTHING, noise=0.1)[0]
    assert 0.098 < float((noisy - grey).std()) < 0.102


def test_gradient_flows_to_the_pictures() -> None:
    x = images(4, 8).requires_grad_()
    sum(view.square().sum() for view in image_views(x, seeded(), blur=0.5, noise=0.01)).backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert bool((x.grad.abs().flatten(1).sum(1) > 0).all())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"crop": (0.0, 1.0)}, "crop"), ({"grey": 2}, "grey"), ({"noise": -1}, "noise"), ({"n": 0}, "n=0")],
)
def test_views_say_what_is_wrong(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        image_views(images(), seeded(), **wrong)
    with pytest.raises(ArgumentError, match="B, 3, H, W"):
        image_views(torch.rand(2, 1, 8, 8), seeded())
