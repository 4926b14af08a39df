"""Phases of training: which parameters learn when."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nearfar.method import Method, Stage


def set_stage(method: Method, optimisers: Sequence[torch.optim.Optimizer], past: float) -> None:
    """Let only the parameters of the current stage learn.

    Args:
        method: says what its stages are.
        optimisers: hold all parameters that ever learn.
        past: share of the steps that are done, in [0, 1).
    """
    stages = method.stages()
    if len(stages) == 1 and stages[0].train is None:
        return
    wanted = stage_at(stages, past).train
    learning = None if wanted is None else {id(parameter) for parameter in wanted}
    for group in [group for optimiser in optimisers for group in optimiser.param_groups]:
        for parameter in group["params"]:
            parameter.requires_grad_(learning is None or id(parameter) in learning)


def stage_at(stages: list[Stage], past: float) -> Stage:
    """The stage that a share of the steps lies in."""
    end = 0.0
    for stage in stages:
        end += stage.share
        if past < end:
            return stage
    return stages[-1]
