"""How far two parts of an embedding depend on each other, told by a discriminator of their pairs.

A discriminator D of pairs that come together against pairs put together at random has, at its best,

    logit D(c, s) = log D / (1 - D) = log p(c, s) / p(c) p(s)

so the mean of its logit over pairs that come together is the mutual information of c and s. Both functions take
the logit itself: D near 0 or 1 would make the quotient 0 / 0.

Nguyen, Wainwright, Jordan. "Estimating Divergence Functionals and the Likelihood Ratio by Convex Risk
Minimization." IEEE Transactions on Information Theory 2010.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def ratio_discriminator(together: Tensor, apart: Tensor) -> Tensor:
    """What the discriminator minimises: - sum_i log D(together_i) - sum_i log(1 - D(apart_i)).

    Args:
        together: logits of pairs that come together, any shape.
        apart: logits of pairs put together at random, any shape.
    """
    return functional.softplus(-together).sum() + functional.softplus(apart).sum()


def ratio_penalty(together: Tensor) -> Tensor:
    """What the encoders minimise: sum_i [log D / (1 - D)]_+ over pairs that come together.

    A pair that looks as if it were put together at random (logit below 0) has no gradient.

    Args:
        together: logits, any shape, with gradient towards the encoders.
    """
    return together.relu().sum()
