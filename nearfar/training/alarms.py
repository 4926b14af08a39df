"""Say plainly that a run has gone wrong, while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nearfar.errors import TrainingError
from nearfar.files import write_json

EVERY = 10
"""Steps between looks at the embeddings."""
COLLAPSED_COSINE = 0.99
COLLAPSED_SPREAD = 1e-4
COLLAPSED_RANK = 1.1
SAMPLE = 256
"""Rows of a batch that are looked at: enough to tell, cheap beside a step."""
GRACE = 0.2
"""Share of the steps before the first look."""
LOOKS = 3
"""Looks in a row that must agree before the alarm sounds."""


def mean_cosine(x: Tensor) -> float:
    """Mean cosine of distinct rows of x [N, d]: (|sum of unit rows|^2 - N) / (N (N - 1))."""
    unit = nn.functional.normalize(x.float(), dim=-1)
    n = len(unit)
    return float((unit.sum(0).square().sum() - n) / (n * (n - 1)))


def relative_spread(x: Tensor) -> float:
    """Mean squared distance of distinct rows of x [N, d] over twice their mean squared length."""
    x = x.float()
    n = len(x)
    energy = x.square().sum()
    return float((n * energy - x.sum(0).square().sum()) / ((n - 1) * energy).clamp_min(1e-30))


def effective_rank(x: Tensor) -> float:
    """Exponential of the entropy of the centred covariance's eigenvalues (Roy and Vetterli, 2007)."""
    centred = x.float() - x.float().mean(0)
    energy = torch.linalg.svdvals(centred).square()
    share = energy / energy.sum().clamp_min(torch.finfo(energy.dtype).tiny)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


class CollapseAlarm:
    """Watches the embeddings of training batches for collapse to a point or a line.

    Args:
        on_collapse: "stop" raises TrainingError, "warn" lets training go on and reports once.
        grace: steps without alarm: a network from scratch starts with embeddings that are nearly alike,
            and a queue has nothing to push them apart with before it is full.
        geometry: that of the space. Where it is not "cosine", embeddings may all point one way and still lie far
            apart: then their distances are judged by, relative to their lengths.
    """

    def __init__(
        self, on_collapse: Literal["stop", "warn"], grace: int = 0, geometry: str = "cosine"
    ) -> None:
        self.on_collapse = on_collapse
        self.geometry = geometry
        self.grace = grace
        self.looks = 0
        self.warning: str | None = None

    def look(self, z: dict[str, Tensor], step: int) -> None:
        """Look at the embeddings of the step, one matrix [B, d] after the other.

        Raises:
            TrainingError: they have been collapsed at three looks in a row.
        """
        if step <= self.grace:
            return
        reasons = [reason for name, x in z.items() if (reason := self._collapsed(name, x))]
        self.looks = self.looks + 1 if reasons else 0
        if self.looks < LOOKS or self.warning:
            return
        self.warning = (
            f"the space has collapsed at step {step}: {reasons[0]}. Nothing is far any more. Likely causes: a "
            "learning rate that is too high, no negatives (batch too small, all ignored), a temperature that "
            "is far too high, or positives that are all alike"
        )
        if self.on_collapse == "stop":
            raise TrainingError(self.warning)

    def _collapsed(self, name: str, x: Tensor) -> str | None:
        if x.ndim != 2 or len(x) < 8 or x.shape[1] < 2 or not x.is_floating_point():
            return None
        x = x[:SAMPLE]
        if self.geometry != "cosine":
            if relative_spread(x) < COLLAPSED_SPREAD:
                return f"all embeddings {name!r} are nearly one point"
        elif (cosine := mean_cosine(x)) > COLLAPSED_COSINE:
            return f"any two embeddings {name!r} have cosine {cosine:.3f} on average"
        if (rank := effective_rank(x)) < COLLAPSED_RANK:
            return f"the embeddings {name!r} lie on a line (effective rank {rank:.2f})"
        return None


def require_finite(z: dict[str, Tensor]) -> None:
    """Stop before an objective refuses embeddings that are no numbers as if a user had given them.

    Raises:
        FloatingPointError: names the first of them that holds NaN or infinity.
    """
    for name, x in z.items():
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise FloatingPointError(f"the embeddings {name!r}")


def not_finite(
    bad: list[str], method: nn.Module, folder: Path | None, facts: dict[str, Any]
) -> TrainingError:
    """The error for a step whose loss or gradient is no number; leaves what replays the step.

    Args:
        bad: what is not finite beside gradients.
        method: weights before the step, with the step's gradients.
        folder: where to write `failure/` (weights and `failure.json`); None writes nothing.
        facts: step, seed and row numbers: with the weights, all that a replay needs.
    """
    bad = bad + [
        f"the gradient of {name}"
        for name, parameter in method.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    where = ""
    if folder is not None:
        failure = folder / "failure"
        failure.mkdir(parents=True, exist_ok=True)
        weights = {
            name: value.detach().cpu().contiguous().clone() for name, value in method.state_dict().items()
        }
        save_file(weights, failure / "method.safetensors")
        write_json(failure / "failure.json", {**facts, "not_finite": bad})
        where = f" What replays it (weights, step, rows, seed) is in {failure}."
    return TrainingError(
        f"step {facts['step']} is not finite: {', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}.{where} Try a "
        "lower learning rate, a higher temperature, or precision 32-true"
    )
