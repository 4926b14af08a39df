"""C3-GAN: clusters of look-alike pictures, as the codes of a generator that draws them."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nearfar.data.kinds import Image
from nearfar.encoders.image import PictureEncoder
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.decoders.layered import LayeredGenerator, Layers, pixels, random_warps
from nearfar.heads.projection import Projection
from nearfar.heads.prototypes import Prototypes
from nearfar.method import Batch, Method, Turn
from nearfar.objectives import (
    Pairing,
    assignment_entropy,
    discriminator_hinge,
    generator_hinge,
    info_nce,
    nt_xent,
)
from nearfar.space import Space
from nearfar.views.image import image_views

BETAS = (0.5, 0.999)
REAL_CROP = (0.7, 1.0)
"""Share of its area that the plain view of a real picture keeps; the paper cuts 64 of 76 pixels a side."""
WARPS: dict[str, dict[str, Any]] = {
    "strong": {"scale": (0.8, 1.5), "degrees": 15.0, "shift": 0.15},
    "weak": {"scale": (0.9, 1.1), "degrees": 2.0, "shift": 0.08},
}
MASKED = (0.1, 0.9)
"""Shares of a picture between which its foreground may cover without a penalty."""


class C3GAN(Method):
    """A generated picture is near the centroid of its cluster, a real one near its own other view.

    A generator draws x = b (1 - m) + f m from noise and a cluster c of K; only mask m and foreground f know c (see
    `LayeredGenerator`). A discriminator sees D(x), whether x is real, and phi(x), the embedding [B, d]. With
    prototypes e_1 ... e_K, which live in the same space and learn with the discriminator,

        info(x, c) = mean_i -log exp(cos(phi(x_i), e_c(i)) / t) / sum_k exp(cos(phi(x_i), e_k) / t)

    Two turns at every step, each with fresh codes and an optimiser of its own. Discriminator, x~ and m~ generated
    and x real with another view x':

        [1 - D(x)]_+ + [1 + D(x~)]_+ + w info(x~, c) + info(m~ x~, c) + NT-Xent(phi(x), phi(x'); t)
            + h mean_i H(p_i) - h H(mean_i p_i)                    p = softmax(cos(phi(x), e) / t)

    and generator:

        -D(x~) + w info(x~, c) + info(m~ x~, c) + mean [0.1 - |m|]_+ + mean [|m| - 0.9]_+ + mean H_2(m)

    with |m| a mask's mean and H_2 the binary entropy in bits. Clusters of a batch are drawn without replacement.
    The cluster of a picture is its nearest prototype: the space keeps prototypes and generator as the parts
    "clusters" and "generator", `nearfar measure` compares clusters with labels and shows samples of each.

    The paper trains 1,000 epochs with `--learning-rate 2e-4 --schedule constant --warmup 0 --weight-decay 0
    --clip-norm 0` at 128 pixels, and K twice or three times the classes. Ours: any picture encoder, with its
    own initialisation, stands in for the convolutions; phi is a two-layer head on its pooled features and D
    linear in its grid; more rows than clusters take every cluster equally often (the release leaves their codes
    empty).

    Args:
        clusters: K.
        dim: d.
        temperature: t.
        info_weight: w.
        entropy_weight: h.
        width: channels of the generator's first grid; fewer are faster.
        warp: how far mask and foreground are turned, scaled and moved in training.
        crop: smallest share of a picture's area that its other view keeps.
        flip: whether views may be mirrored.
        jitter: strength of the other view's change of brightness, contrast and saturation.
        grey: probability that the other view is grey.

    Kim, Ha. "Contrastive Fine-grained Class Clustering via Generative Adversarial Networks." ICLR 2022.
    """

    reads = {"image": Image}

    def __init__(
        self,
        encoder: PictureEncoder,
        clusters: int = 400,
        dim: int = 512,
        temperature: float = 0.1,
        info_weight: float = 5.0,
        entropy_weight: float = 0.1,
        width: int = 512,
        warp: Literal["strong", "weak"] = "strong",
        crop: float = 0.2,
        flip: bool = True,
        jitter: float = 0.4,
        grey: float = 0.2,
    ) -> None:
        super().__init__()
        check_between(2, math.inf, clusters=clusters)
        check_between(1e-4, math.inf, temperature=temperature)
        check_between(0, math.inf, info_weight=info_weight, entropy_weight=entropy_weight)
        size = encoder.plan.height
        if size != encoder.plan.width:
            raise ArgumentError(
                f"c3gan draws square pictures, and this encoder reads {size} x {encoder.plan.width}: give one of "
                "square pictures, such as 'tiny'"
            )
        self.encoder, self.clusters = encoder, clusters
        self.head = Projection(encoder.dim, encoder.dim, dim, kind="mlp")
        with torch.no_grad():
            cells = encoder({"pixels": torch.zeros(1, 3, size, size)}).tokens.flatten(1).shape[1]
        self.realness = nn.Linear(cells, 1)
        self.prototypes = Prototypes(dim, clusters)
        self.generator = LayeredGenerator(clusters, size, width)
        self.temperature, self.warp = temperature, WARPS[warp]
        self.info_weight, self.entropy_weight = info_weight, entropy_weight
        self.flip = flip
        self.views: dict[str, Any] = {"crop": (crop, 1.0), "jitter": jitter, "grey": grey}

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        shown = super().prepare({"image": rows["image"]}, generator)["image"]["pixels"]
        [real] = image_views(shown, generator, n=1, crop=REAL_CROP, flip=self.flip, jitter=0.0, grey=0.0)
        [other] = image_views(shown, generator, n=1, flip=self.flip, **self.views)
        return {"real": {"pixels": real}, "other": {"pixels": other}}

    def turns(self) -> list[Turn]:
        seeing = [self.encoder, self.head, self.realness, self.prototypes]
        discriminator = [parameter for part in seeing for parameter in part.parameters()]
        return [
            Turn("discriminator", discriminator, self.discriminate, BETAS),
            Turn("generator", list(self.generator.parameters()), self.deceive, BETAS),
        ]

    def negatives(self, batch_size: int) -> int:
        return 0

    # -- the discriminator's turn --------------------------------------------------------------------

    def discriminate(self, batch: Batch) -> dict[str, Tensor]:
        """Tell real from generated, generated clusters from each other, and real pictures from each other."""
        x = batch["real"]["pixels"]
        with torch.no_grad():
            clusters, drawn = self.draw(len(x), x.device)
        real, real_score = self.see(x)
        other, _ = self.see(batch["other"]["pixels"])
        fake_score, info = self.judge(drawn, clusters)
        return {
            "hinge": discriminator_hinge(real_score, fake_score),
            **info,
            "views": nt_xent(real, other, temperature=self.temperature),
            "entropy": assignment_entropy(self.logits(real), self.entropy_weight, self.entropy_weight),
        }

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """phi(x) [B, d] and D(x) [B, 1] of pixels in [0, 1], [B, 3, size, size]."""
        features = self.encoder({"pixels": x})
        return self.head(features.pooled), self.realness(features.tokens.flatten(1))

    def judge(self, drawn: Layers, clusters: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What both turns ask of generated pictures: D(x~), and whether their clusters can be told."""
        whole, score = self.see(pixels(drawn.picture))
        foreground, _ = self.see(pixels(drawn.mask * drawn.picture))
        return score, {
            "info": self.info_weight * self.info(whole, clusters),
            "info_foreground": self.info(foreground, clusters),
        }

    def info(self, phi: Tensor, clusters: Tensor) -> Tensor:
        """How well the clusters [B] of embeddings [B, d] are told from all others."""
        pairing = Pairing.index(clusters)
        return info_nce(phi, self.prototypes.rows, pairing, temperature=self.temperature)

    def logits(self, phi: Tensor) -> Tensor:
        """Embeddings [B, d] against the clusters, before the softmax: [B, K]."""
        return self.prototypes(phi) / self.temperature

    # -- the generator's turn ------------------------------------------------------------------------

    def deceive(self, batch: Batch) -> dict[str, Tensor]:
        """Draw what passes as real, and whose cluster can be told."""
        x = batch["real"]["pixels"]
        clusters, drawn = self.draw(len(x), x.device)
        score, info = self.judge(drawn, clusters)
        return {"hinge": generator_hinge(score), **info, "mask": mask_penalty(drawn.mask)}

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Layers]:
        """Random clusters [n], and a warped picture of each."""
        clusters = shuffled(self.clusters, n).to(device)
        z, c_z = torch.randn(n, self.generator.noise), torch.randn(n, self.generator.cluster_noise)
        warps = random_warps(n, **self.warp).to(device)
        return clusters, self.generator(z.to(device), clusters, c_z.to(device), warps)

    def space(self) -> Space:
        parts = {"clusters": self.prototypes, "generator": self.generator}
        return Space({"image": self.encoder}, {"image": self.head}, parts=parts)


def shuffled(clusters: int, n: int) -> Tensor:
    """n clusters in random order, none again before all have come: int64 [n]."""
    return torch.cat([torch.randperm(clusters) for _ in range(math.ceil(n / clusters))])[:n]


def mask_penalty(mask: Tensor) -> Tensor:
    """Masks [B, 1, H, W] neither empty nor full, and each cell sure of its side."""
    low, high = MASKED
    covered = mask.flatten(1).mean(dim=1)
    # As released: cells beyond a warped picture are exactly 0, where the slope of p log p is infinite.
    unsure = -mask * (mask + 1e-6).log2() - (1 - mask) * (1 - mask + 1e-6).log2()
    return (low - covered).relu().mean() + (covered - high).relu().mean() + unsure.mean()
