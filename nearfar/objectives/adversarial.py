"""Losses of a discriminator and of the generator that is to deceive it."""

from __future__ import annotations

from torch import Tensor


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Real examples above 1, generated ones below -1: mean [1 - real]_+ + mean [1 + fake]_+.

    Lim, Ye. "Geometric GAN." 2017, eq. 20. Scores beyond their margin get no gradient.

    Args:
        real: scores of real examples, any shape.
        fake: scores of generated ones, detached from their generator.
    """
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """The generator's side: - mean fake, without a margin, so that its gradient never ends.

    Args:
        fake: scores of generated examples, any shape, with gradient towards their generator.
    """
    return -fake.mean()
