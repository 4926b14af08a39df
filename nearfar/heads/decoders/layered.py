"""Pictures in two layers: a background, and before it a foreground that belongs to a cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.errors import check_between

FIRST_GRID = 4
"""Both layers grow from a grid of 4 x 4."""
FEWEST = 4
"""No grid has fewer channels."""


class Layers(NamedTuple):
    """A batch of generated pictures and what they are composed of; pictures in [-1, 1].

    Attributes:
        background: b, [B, 3, size, size].
        mask: m in (0, 1), [B, 1, size, size].
        foreground: f, [B, 3, size, size].
        picture: b (1 - m) + f m.
    """

    background: Tensor
    mask: Tensor
    foreground: Tensor
    picture: Tensor


class LayeredGenerator(nn.Module):
    """Noise and a cluster to a picture whose foreground alone depends on the cluster.

        b = B(z)        c' = mu(c) + exp(sigma(c)) c_z        (m, f) = F(z, c', c)        x = b (1 - m) + f m

    with z ~ N(0, I), c one-hot of K clusters and c_z ~ N(0, I). Blocks of nearest upsampling, convolution, batch
    norm and gated linear unit double a grid of 4 x 4 to the size of the picture and halve its channels; residual
    blocks follow. Mask and image have heads of their own; the latter sees c again at every pixel.

    Kim, Ha. "Contrastive Fine-grained Class Clustering via Generative Adversarial Networks." ICLR 2022, with the
    layers of its release for 128 pixels. Ours: channels halve at every doubling, to whatever size is asked for.

    Args:
        clusters: K, at least 2.
        size: pictures are size x size, at least 4.
        width: channels of the first grid, at least 4.
        noise: width of z.
        cluster_noise: width of c_z.

    Raises:
        ArgumentError: an argument is out of its range.
    """

    def __init__(
        self, clusters: int, size: int, width: int = 512, noise: int = 64, cluster_noise: int = 8
    ) -> None:
        super().__init__()
        check_between(2, math.inf, clusters=clusters)
        check_between(FIRST_GRID, math.inf, size=size)
        check_between(FEWEST, math.inf, width=width)
        check_between(1, math.inf, noise=noise, cluster_noise=cluster_noise)
        self.clusters, self.size, self.width = clusters, size, width
        self.noise, self.cluster_noise = noise, cluster_noise
        last = _channels(width, size)[-1]
        self.background = nn.Sequential(
            _seed(noise, width),
            *_growing(width, width, size),
            *_residual(last, 3),
            *_to_pixels(last, 3),
            nn.Tanh(),
        )
        self.embed_cluster = nn.Sequential(
            nn.Linear(clusters, 4 * cluster_noise), nn.BatchNorm1d(4 * cluster_noise), nn.GLU(dim=1)
        )
        self.seed = _seed(noise, width)
        self.base = nn.Sequential(*_growing(width + cluster_noise, width, size), *_residual(last, 3))
        self.to_mask = nn.Sequential(_gated(last, last), *_to_pixels(last, 1), nn.Sigmoid())
        self.to_image = nn.Sequential(
            _gated(clusters + last, last),
            *_residual(last, 2),
            _gated(last, last),
            *_to_pixels(last, 3),
            nn.Tanh(),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, z: Tensor, c: Tensor, c_z: Tensor, warps: Tensor | None = None) -> Layers:
        """Generate pictures.

        Args:
            z: noise [B, noise].
            c: clusters, int64 [B].
            c_z: noise of the clusters [B, cluster_noise].
            warps: affine maps [B, 2, 3] that move mask and foreground, as `random_warps` draws them; for training
                only.
        """
        one_hot = functional.one_hot(c, self.clusters).to(z.dtype)
        mean, log_scale = self.embed_cluster(one_hot).chunk(2, dim=1)
        code = (mean + log_scale.exp() * c_z)[:, :, None, None].expand(-1, -1, FIRST_GRID, FIRST_GRID)
        features = self.base(torch.cat([self.seed(z), code], dim=1))
        mask = self.to_mask(features)
        tiled = one_hot[:, :, None, None].expand(-1, -1, self.size, self.size)
        foreground = self.to_image(torch.cat([features, tiled], dim=1))
        background = self.background(z)
        if warps is not None:
            grid = functional.affine_grid(warps, list(foreground.shape), align_corners=True)
            mask, foreground = (
                functional.grid_sample(x, grid, align_corners=True) for x in (mask, foreground)
            )
        return Layers(background, mask, foreground, composed(background, mask, foreground))

    @torch.no_grad()
    def generate(self, clusters: Sequence[int], seed: int = 0) -> Tensor:
        """A picture for each of these clusters, without warps: float32 [N, 3, size, size] in [0, 1].

        Args:
            clusters: one number each, from 0 to K - 1; may come several times.
            seed: of the noise.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        z, c_z = (
            torch.randn(len(clusters), width, generator=generator).to(device)
            for width in (self.noise, self.cluster_noise)
        )
        was_training = self.training
        try:
            self.eval()
            return pixels(self(z, torch.tensor(list(clusters), device=device), c_z).picture)
        finally:
            self.train(was_training)

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this generator again, as JSON values."""
        dims = [self.clusters, self.size, self.width, self.noise, self.cluster_noise]
        return {"class": "LayeredGenerator", "dims": dims}


def composed(background: Tensor, mask: Tensor, foreground: Tensor) -> Tensor:
    """b (1 - m) + f m."""
    return background * (1 - mask) + foreground * mask


def pixels(picture: Tensor) -> Tensor:
    """From [-1, 1] to the range of encoders, [0, 1]."""
    return (picture + 1) / 2


def random_warps(n: int, scale: tuple[float, float], degrees: float, shift: float) -> Tensor:
    """Affine maps that turn, scale and move, for `affine_grid`: [n, 2, 3], from the global random state.

    Args:
        n: how many.
        scale: smallest and largest factor of the sampled coordinates; above 1 the picture shrinks.
        degrees: largest turn either way.
        shift: largest move either way, in half widths.
    """
    s = torch.empty(n).uniform_(*scale)
    turn = torch.empty(n).uniform_(-degrees, degrees) * math.pi / 180
    x, y = torch.empty(2, n).uniform_(-shift, shift)
    rows = [[s * turn.cos(), -s * turn.sin(), x], [s * turn.sin(), s * turn.cos(), y]]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _seed(noise: int, width: int) -> nn.Sequential:
    cells = width * FIRST_GRID**2
    return nn.Sequential(
        nn.Linear(noise, 2 * cells, bias=False),
        nn.BatchNorm1d(2 * cells),
        nn.GLU(dim=1),
        nn.Unflatten(1, (width, FIRST_GRID, FIRST_GRID)),
    )


def _grids(size: int) -> list[int]:
    """Sizes of the grids after the first one, each about twice the one before."""
    grids = [size]
    while grids[0] > 2 * FIRST_GRID:
        grids.insert(0, math.ceil(grids[0] / 2))
    return grids


def _channels(width: int, size: int) -> list[int]:
    """Channels of each of these grids."""
    return [max(width // 2**number, FEWEST) for number in range(1, len(_grids(size)) + 1)]


def _growing(channels: int, width: int, size: int) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for grid, out in zip(_grids(size), _channels(width, size), strict=True):
        blocks += [nn.Upsample(size=(grid, grid), mode="nearest"), _gated(channels, out)]
        channels = out
    return blocks


def _gated(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 2 * out, 3, padding=1, bias=False), nn.BatchNorm2d(2 * out), nn.GLU(dim=1)
    )


def _to_pixels(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False)]


def _residual(channels: int, blocks: int) -> list[nn.Module]:
    return [_Residual(channels) for _ in range(blocks)]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            _gated(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        unchanged: Tensor = x + self.change(x)
        return unchanged
