"""Keep the weights at which a measure on held-out rows was best, and stop when it stays worse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.files import atomic_file


class Watch:
    """The best value of one measure so far, and the weights it belongs to.

    Args:
        name: the measure; None watches nothing.
        better: "higher", "lower" or "closer_to_zero".
        patience: measurements without improvement after which `see` returns True; 0 means never.
    """

    def __init__(self, name: str | None, better: str, patience: int) -> None:
        self.name, self.better, self.patience = name, better, patience
        self.best: float | None = None
        self.step: int | None = None
        self.worse = 0
        self._weights: dict[str, Tensor] = {}

    def see(self, measured: dict[str, float], step: int, method: nn.Module) -> bool:
        """Compare a measurement with the best one; True when patience is over.

        Raises:
            ArgumentError: the watched measure is not among those measured.
        """
        if self.name is None:
            return False
        if self.name not in measured:
            raise ArgumentError(
                f"watch {self.name!r} is not measured on this table; measured are: {', '.join(measured)}"
            )
        value = measured[self.name]
        if not math.isnan(value) and (self.best is None or self._goodness(value) > self._goodness(self.best)):
            self.best, self.step, self.worse = value, step, 0
            self._weights = {
                key: tensor.detach().cpu().clone() for key, tensor in method.state_dict().items()
            }
            return False
        self.worse += 1
        return bool(self.patience) and self.worse >= self.patience

    def _goodness(self, value: float) -> float:
        return {"higher": value, "closer_to_zero": -abs(value)}.get(self.better, -value)

    def restore(self, method: nn.Module) -> int | None:
        """Give the method its best weights; returns the step they are of, None if none were kept."""
        if self.step is not None:
            with torch.no_grad():
                method.load_state_dict(self._weights)
        return self.step

    def state(self, folder: Path) -> dict[str, Any]:
        """What a checkpoint must remember; the weights go to `folder/best-N.safetensors`."""
        if self.step is not None:
            place = folder / f"best-{self.step}.safetensors"
            if not place.exists():
                with atomic_file(place) as temporary:
                    save_file({key: tensor.contiguous() for key, tensor in self._weights.items()}, temporary)
        return {"best": self.best, "step": self.step, "worse": self.worse}

    def load(self, state: dict[str, Any], folder: Path) -> None:
        """Go on from what `state` returned."""
        self.best, self.step, self.worse = state["best"], state["step"], state["worse"]
        if self.step is not None:
            self._weights = load_file(folder / f"best-{self.step}.safetensors")
        for place in folder.glob("best-*.safetensors"):
            if place.name != f"best-{self.step}.safetensors":
                place.unlink()
