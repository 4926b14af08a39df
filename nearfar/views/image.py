"""Positives made of pictures: random crops and colours, drawn anew for every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError, check_between

ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop, as in Szegedy et al., CVPR 2015."""
JITTERED = 0.8
"""The part of the pictures whose colours are changed (Chen et al., SimCLR, ICML 2020, appendix A)."""
HUE = 0.25
"""Hue moves at most this part of `jitter` of the colour circle (SimCLR: 0.2 of 0.8)."""
BLUR_SIGMA = (0.1, 2.0)
"""Standard deviation of the blur in pixels (SimCLR)."""


def image_views(
    images: Tensor,
    generator: torch.Generator,
    *,
    n: int = 2,
    crop: tuple[float, float] = (0.2, 1.0),
    flip: bool = True,
    jitter: float = 0.4,
    grey: float = 0.2,
    blur: float = 0.0,
    noise: float = 0.0,
) -> list[Tensor]:
    """Make `n` random views of every picture; every one has parameters of its own.

    In this order: crop and resize back (with the flip), jitter of brightness, contrast, saturation
    and hue, grey, blur, noise. The defaults are those of MoCo v2 (Chen et al., 2020) without blur. For
    8x8 digits: `flip=False, jitter=0, grey=0, crop=(0.6, 1), noise=0.1`.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        generator: the only source of randomness; on the CPU.
        n: number of views.
        crop: smallest and largest part of the area that a crop keeps.
        flip: whether half of the views are mirrored left to right.
        jitter: brightness, contrast and saturation are multiplied by U[1 - jitter, 1 + jitter].
        grey: probability that a view loses its colours.
        blur: probability that a view is blurred.
        noise: standard deviation of Gaussian noise on every pixel.

    Returns:
        `n` tensors [B, 3, H, W] in [0, 1]; row i of each is a view of picture i.

    Raises:
        ArgumentError: another shape, or an argument outside its range.
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ArgumentError(f"images must be [B, 3, H, W]; got {list(images.shape)}")
    if not 0 < crop[0] <= crop[1] <= 1:
        raise ArgumentError(f"crop={crop}: give the smallest and the largest part kept, both in (0, 1]")
    check_between(0, 1, jitter=jitter, grey=grey, blur=blur)
    if n < 1 or noise < 0:
        raise ArgumentError(f"n={n} must be at least 1, noise={noise} at least 0")
    views = images.repeat(n, 1, 1, 1)
    if crop != (1.0, 1.0) or flip:
        views = _crop(views, generator, crop, flip)
    if jitter:
        views = _jitter(views, generator, jitter)
    if grey:
        from kornia.color import rgb_to_grayscale

        views = _some(views, grey, generator, rgb_to_grayscale(views).expand_as(views))
    if blur:
        views = _some(views, blur, generator, _blurred(views, generator))
    if noise:
        drawn = torch.randn(views.shape, generator=generator, dtype=views.dtype).to(views.device)
        views = views + noise * drawn
    return list(views.clamp(0, 1).chunk(n))


def random_shift(images: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Move every picture by a whole number of pixels up to `pad`, each way, its border repeated.

    Kostrikov, Yarats, Fergus. "Image Augmentation Is All You Need: Regularizing Deep Reinforcement Learning
    from Pixels." ICLR 2021: pad by `pad`, then crop at random to the old size.

    Args:
        images: [B, C, H, W]; all channels of a picture (stacked frames) move together.
        generator: the only source of randomness; on the CPU.
        pad: the most pixels, below H and W; 84 x 84 pictures take 4.

    Returns:
        As `images`; every entry is one of its picture's.

    Raises:
        ArgumentError: another shape, or a pad outside its range.
    """
    if images.dim() != 4:
        raise ArgumentError(f"images must be [B, C, H, W]; got {list(images.shape)}")
    check_between(0, min(images.shape[-2:]) - 1, pad=pad)
    moved = torch.randint(-pad, pad + 1, (2, len(images), 1), generator=generator).to(images.device)
    # A clamped index repeats the border, without a padded copy.
    y, x = (
        (torch.arange(side, device=images.device) + by).clamp(0, side - 1)
        for side, by in zip(images.shape[-2:], moved, strict=True)
    )
    row = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    return images.permute(0, 2, 3, 1)[row, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _uniform(like: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    drawn = low + (high - low) * torch.rand(len(like), generator=generator)
    return drawn.to(like)


def _some(views: Tensor, probability: float, generator: torch.Generator, changed: Tensor) -> Tensor:
    chosen = _uniform(views, generator, 0, 1) < probability
    return torch.where(chosen.view(-1, 1, 1, 1), changed, views)


def _crop(views: Tensor, generator: torch.Generator, area: Sequence[float], flip: bool) -> Tensor:
    kept = _uniform(views, generator, *area)
    # The proportions are drawn among those that fit into the picture, so that no crop is cut down.
    lowest = torch.maximum(kept.log(), torch.full_like(kept, math.log(ASPECT[0])))
    highest = torch.minimum(-kept.log(), torch.full_like(kept, math.log(ASPECT[1])))
    log_aspect = lowest + (highest - lowest) * _uniform(views, generator, 0, 1)
    width, height = (kept * log_aspect.exp()).sqrt(), (kept / log_aspect.exp()).sqrt()
    x = (1 - width) * _uniform(views, generator, -1, 1)
    y = (1 - height) * _uniform(views, generator, -1, 1)
    if flip:
        width = width * torch.where(_uniform(views, generator, 0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    maps = torch.stack([torch.stack([width, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = functional.affine_grid(maps, list(views.shape), align_corners=False)
    return functional.grid_sample(views, grid, padding_mode="border", align_corners=False)


def _jitter(views: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    from kornia import enhance

    changed = views
    for change in (
        enhance.adjust_brightness_accumulative,
        enhance.adjust_contrast_with_mean_subtraction,
        enhance.adjust_saturation_with_gray_subtraction,
    ):
        changed = change(changed, _uniform(views, generator, 1 - strength, 1 + strength))
    turn = 2 * math.pi * HUE * strength
    changed = enhance.adjust_hue(changed, _uniform(views, generator, -turn, turn))
    return _some(views, JITTERED, generator, changed)


def _blurred(views: Tensor, generator: torch.Generator) -> Tensor:
    from kornia.filters import gaussian_blur2d

    # A tenth of the picture, odd, as in SimCLR.
    kernel = max(3, min(views.shape[-2:]) // 10 | 1)
    sigma = _uniform(views, generator, *BLUR_SIGMA)
    return gaussian_blur2d(views, kernel, sigma.unsqueeze(1).expand(-1, 2))
