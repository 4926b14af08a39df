"""Who learns in a step: everything at once, or the sides of an alternating optimisation one after the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.method import Batch, Method, Turn
from nearfar.training.optimiser import make_optimiser
from nearfar.training.settings import Settings


@dataclass(frozen=True)
class Side:
    """What learns together, by one optimiser.

    Attributes:
        name: of its turn; empty where everything learns at once.
        loss: prepared batch -> named loss terms; None: what `embed` and `contrast` make of it.
        optimiser: holds the parameters that it moves.
        prepared: the same as Fabric steps it.
        times: how often in a row it learns at every step.
        fresh: whether the optimiser begins anew at every epoch.
    """

    name: str
    loss: Callable[[Batch], dict[str, Tensor]] | None
    optimiser: torch.optim.Optimizer
    prepared: _FabricOptimizer
    times: int = 1
    fresh: bool = False

    def begin_epoch(self) -> None:
        """Forget the moments of the epoch before, where they are to be forgotten."""
        if self.fresh:
            self.optimiser.state.clear()

    def shown(self, term: str) -> str:
        """A loss term under the name that the log gives it."""
        return f"{self.name}/{term}" if self.name else term

    @contextmanager
    def alone(self, method: Method) -> Iterator[None]:
        """Let no other parameter get a gradient; those that are frozen anyway stay so afterwards."""
        own = {id(parameter) for group in self.optimiser.param_groups for parameter in group["params"]}
        others = [p for p in method.parameters() if p.requires_grad and id(p) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def clip(self, method: Method, settings: Settings, fabric: Fabric) -> Tensor:
        """Clip the gradient's norm and return what it was."""
        limit = settings.clip_norm or math.inf
        if settings.precision == "16-mixed":
            # The scaler skips steps with infinite gradients by itself: only the clipping is left to do.
            fabric.clip_gradients(method, self.prepared, max_norm=limit, error_if_nonfinite=False)
            return torch.zeros(())
        return torch.nn.utils.clip_grad_norm_(method.parameters(), limit)


def make_sides(method: Method, settings: Settings, fabric: Fabric) -> list[Side]:
    """The sides of a method in the order in which they learn; one where it has no turns.

    Raises:
        ArgumentError: two turns have one name, or a parameter that requires gradient learns in none.
    """
    turns = method.turns()
    _check(method, turns)
    if not turns:
        whole = None if type(method).loss is Method.loss else method.loss
        return [Side("", whole, *_optimiser(method, settings, fabric, None))]
    return [
        Side(turn.name, turn.loss, *_optimiser(method, settings, fabric, turn), turn.times, turn.fresh)
        for turn in turns
    ]


def _optimiser(
    method: Method, settings: Settings, fabric: Fabric, turn: Turn | None
) -> tuple[torch.optim.Optimizer, _FabricOptimizer]:
    optimiser = make_optimiser(method, settings, turn)
    return optimiser, cast(_FabricOptimizer, fabric.setup_optimizers(optimiser))


def _check(method: Method, turns: list[Turn]) -> None:
    who = type(method).__name__
    names = Counter(turn.name for turn in turns)
    if twice := [name for name, times in names.items() if times > 1]:
        raise ArgumentError(f"{who} has two turns {twice[0]!r}: their loss terms need names of their own")
    learning = {id(parameter) for turn in turns for parameter in turn.train}
    idle = [n for n, p in method.named_parameters() if turns and p.requires_grad and id(p) not in learning]
    if idle:
        raise ArgumentError(
            f"{idle[0]} of {who} learns in no turn: put it into the `train` of one, or freeze it with "
            "requires_grad_(False)"
        )
