"""Two objectives on the same parameters: the combination of their gradients that raises neither."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-30


def pareto_share(
    first: Tensor, second: Tensor, shared: Sequence[nn.Parameter], *, normalise: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The share a of the first loss for which a g1 + (1 - a) g2 is shortest.

        a = clip( (g2 - g1) . g2 / |g1 - g2|^2, 0, 1 )

    Along it neither loss rises, to first order; it is zero where no direction lowers both.

    Sener, Koltun. "Multi-Task Learning as Multi-Objective Optimization." NeurIPS 2018, eq. 4.

    Args:
        first: a loss.
        second: another; the graphs of both are kept.
        shared: parameters whose gradients are combined.
        normalise: compare gradients of length one: where one loss is a thousand times the other, the plain a
            only says which is smaller. Weighs the losses by the inverse lengths.

    Returns:
        The weights of the first and the second loss, without gradient, and the lengths of their gradients [2].
    """
    one, two = (
        _flat(torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True), shared)
        for loss in (first, second)
    )
    lengths = torch.stack([one.norm(), two.norm()])
    scales = 1 / lengths.clamp(min=SMALLEST) if normalise else torch.ones_like(lengths)
    one, two = one * scales[0], two * scales[1]
    gap = one - two
    share = (-(gap @ two) / gap.square().sum().clamp(min=SMALLEST)).clamp(0, 1)
    return share * scales[0], (1 - share) * scales[1], lengths


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(gradients, parameters, strict=True)
        ]
    )
