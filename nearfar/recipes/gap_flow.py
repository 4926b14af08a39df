"""The modality gap as a process: gradient descent on two parallel clouds of points.

    x_i = [sqrt(1 - g^2) u_i ; g],   y_i = [sqrt(1 - g^2) v_i ; -g],   u_i, v_i unit rows in R^(d-1)
    loss = SymCE(beta X Y^T) = SymCE(beta (1 - g^2) U V^T),   beta = exp(nu)

The constant -beta g^2 cancels in the softmax. u, v, nu and g follow the negative gradient, u and v on the sphere.

Yaras, Chen, Wang, Qu. "Explaining and Mitigating the Modality Gap in Contrastive Multimodal Learning." CPAL 2025.
A constructed process, as in the paper's theory; no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Flow:
    """One simulated run.

    Attributes:
        gap: 2 g at every recorded step: the distance of the centres along the gap's axis.
        beta: inverse temperature at every recorded step.
        steps: the recorded steps.
    """

    gap: list[float]
    beta: list[float]
    steps: list[int]


def gap_loss(u: Tensor, v: Tensor, nu: Tensor, g: Tensor) -> Tensor:
    """Loss of the two clouds, from the reduced form: u, v [n, d-1] unit rows, nu and g scalars."""
    scores = nu.exp() * (1 - g.square()) * (u @ v.T)
    targets = torch.arange(len(u))
    return (functional.cross_entropy(scores, targets) + functional.cross_entropy(scores.T, targets)) / 2


def simulate(
    seed: int,
    *,
    ordered: bool,
    learned: bool = True,
    n: int = 32,
    d: int = 16,
    g: float = 0.3,
    beta: float = 10.0,
    rate: float = 0.05,
    steps: int = 10_000,
    every: int = 100,
) -> Flow:
    """Gradient descent with small steps.

    Args:
        seed: of the initial points.
        ordered: pairs start nearest to each other (all margins positive); otherwise at random.
        learned: whether nu moves.
        n: pairs.
        d: dimensions, the gap's axis included.
        g: half of the gap at the start.
        beta: inverse temperature at the start.
        rate: step size.
        steps: how many.
        every: steps between records.
    """
    generator = torch.Generator().manual_seed(seed)

    def points() -> Tensor:
        return functional.normalize(torch.randn(n, d - 1, generator=generator, dtype=torch.float64), dim=-1)

    u = points()
    v = functional.normalize(u + 0.1 * points(), dim=-1) if ordered else points()
    nu, half = torch.tensor(math.log(beta), dtype=torch.float64), torch.tensor(g, dtype=torch.float64)
    found = Flow([2 * g], [beta], [0])
    for step in range(1, steps + 1):
        moving = [tensor.requires_grad_() for tensor in (u, v, nu, half)]
        gradients = torch.autograd.grad(gap_loss(u, v, nu, half), moving)
        with torch.no_grad():
            u = functional.normalize(u - rate * _tangent(u, gradients[0]), dim=-1)
            v = functional.normalize(v - rate * _tangent(v, gradients[1]), dim=-1)
            nu = nu - rate * gradients[2] if learned else nu.detach()
            half = (half - rate * gradients[3]).clamp(-1, 1)
        if step % every == 0 or step == 1:
            found.gap.append(2 * abs(float(half)))
            found.beta.append(float(nu.exp()))
            found.steps.append(step)
    return found


def _tangent(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient - (gradient * x).sum(-1, keepdim=True) * x


def gap_to_temperature_ratio(beta: float, g: float) -> float:
    """(dg/dt) / (dbeta/dt) with beta = exp(nu) learned: -2 beta g / (beta^2 (1 - g^2)).

    It falls like 1/beta: the sharper the softmax has become, the less the gap still moves.
    """
    return -2 * beta * g / (beta**2 * (1 - g**2))
