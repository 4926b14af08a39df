"""AdamW over a method's parameters, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import nn

from nearfar.method import Turn
from nearfar.training.settings import Settings


def make_optimiser(module: nn.Module, settings: Settings, turn: Turn | None = None) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) with decay on matrices only, for all of a module or for a turn of it.

    A parameter may carry two attributes: `lr_mult` scales its learning rate and `no_weight_decay`
    spares it the decay (as for a temperature). Biases and norms (fewer than two dimensions) are spared too.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    rate, betas = (1.0, (0.9, 0.999)) if turn is None else (turn.rate, turn.betas)
    for parameter in module.parameters() if turn is None else turn.train:
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or getattr(parameter, "no_weight_decay", False)
        decay = 0.0 if spared else settings.weight_decay
        groups[rate * getattr(parameter, "lr_mult", 1.0), decay].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": found, "lr_mult": mult, "weight_decay": decay}
            for (mult, decay), found in groups.items()
        ],
        lr=settings.learning_rate,
        betas=betas,
        # One pass over the parameters: on two cores the step would else show in the profile. With scaled gradients
        # it would take the scale out within the step, where nothing can be clipped: Fabric refuses that.
        fused=settings.precision != "16-mixed",
    )


def rate_at(step: int, steps: int, settings: Settings) -> float:
    """Learning rate of step `step` (counted from 0) out of `steps`, before `lr_mult`."""
    warm = round(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    past = (step - warm) / max(1, steps - warm)
    factor = {"linear": 1 - past, "cosine": 0.5 * (1 + math.cos(math.pi * past)), "constant": 1.0}
    return settings.learning_rate * factor[settings.schedule]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group its learning rate for the coming step."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_mult"]
