"""The temperature: fixed, scheduled, or learned in one of several charts."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError

TemperatureKind = Literal["fixed", "exp", "softplus", "scaled_exp", "linear"]


class Temperature(nn.Module):
    """A temperature that starts at `init` whatever its kind; called, it gives a scalar tensor.

        fixed       t = init
        linear      t = init + (final - init) progress; see `set_progress`
        exp         1/t = exp(nu), learned (Radford et al., CLIP, ICML 2021)
        softplus    1/t = log(1 + exp(nu)), learned
        scaled_exp  1/t = exp(nu / scale), learned

    The last two and the schedule: Yaras et al. "Explaining and Mitigating the Modality Gap in Contrastive
    Multimodal Learning." CPAL 2025. The parameter carries `no_weight_decay = True` and `lr_mult` for the
    optimiser.

    Args:
        kind: one of the above.
        init: t at the start, above 0.
        final: t at the end, for "linear" only.
        minimum: t never falls below it (CLIP: 0.01).
        scale: of "scaled_exp".
        lr_mult: factor on the learning rate of the learned kinds.

    Raises:
        ArgumentError: an argument is out of its range, or `final` does not go with the kind.
    """

    progress: Tensor

    def __init__(
        self,
        kind: TemperatureKind,
        init: float,
        *,
        final: float | None = None,
        minimum: float | None = None,
        scale: float = 10.0,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in get_args(TemperatureKind):
            raise ArgumentError(
                f"kind of temperature must be one of {', '.join(get_args(TemperatureKind))}, got {kind!r}"
            )
        numbers = {"init": init, "final": final, "minimum": minimum, "scale": scale, "lr_mult": lr_mult}
        for name, value in numbers.items():
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"{name} of a temperature must be a finite number above 0, got {value}")
        if (final is None) == (kind == "linear"):
            raise ArgumentError(
                f"final goes with the kind 'linear' and only with it, got {kind!r} and final={final}"
            )
        if minimum is not None and min(init, final or init) < minimum:
            raise ArgumentError(
                f"the temperature ({init} to {final or init}) must not be below its minimum {minimum}"
            )
        self.kind, self.init, self.final, self.minimum = kind, init, final, minimum
        self.scale, self.lr_mult = scale, lr_mult
        if kind == "linear":
            self.register_buffer("progress", torch.zeros(()))
        elif kind != "fixed":
            self.nu = nn.Parameter(torch.tensor(self._nu(init)))
        self._flag()

    def _flag(self) -> None:
        for parameter in self.parameters(recurse=False):
            parameter.no_weight_decay = True  # type: ignore[attr-defined]
            parameter.lr_mult = self.lr_mult  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flag()  # a copied parameter loses its attributes

    def _nu(self, tau: float) -> float:
        """The parameter that gives the temperature `tau`; falls as tau rises."""
        if self.kind == "softplus":
            return 1 / tau + math.log(-math.expm1(-1 / tau))
        return -math.log(tau) * (self.scale if self.kind == "scaled_exp" else 1.0)

    def forward(self) -> Tensor:
        """The temperature now, above 0, with its gradient if it is learned."""
        if self.kind in ("fixed", "linear"):
            return self._scheduled()
        if self.minimum is not None:
            # As CLIP does, the parameter itself is held: a clamp in the graph would leave it without gradient
            # beyond the limit. Through `data`, since a second call before the backward pass changes nothing.
            self.nu.data.clamp_(max=self._nu(self.minimum))
        if self.kind == "softplus":
            return 1 / nn.functional.softplus(self.nu)
        return (-self.nu / (self.scale if self.kind == "scaled_exp" else 1.0)).exp()

    def _scheduled(self) -> Tensor:
        if self.final is None:
            return torch.tensor(self.init)
        return self.init + (self.final - self.init) * self.progress

    def set_progress(self, fraction: float) -> None:
        """Say which part of training is done, in [0, 1]. Moves the kind "linear", and no other.

        Raises:
            ArgumentError: not in [0, 1].
        """
        if not 0 <= fraction <= 1:
            raise ArgumentError(f"progress must be in [0, 1], got {fraction}")
        if self.kind == "linear":
            self.progress.fill_(fraction)

    def extra_repr(self) -> str:
        """Shown by `print`."""
        return f"{self.kind}, init={self.init}" + (f", final={self.final}" if self.final is not None else "")
