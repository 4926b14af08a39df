"""What a training run was."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Run:
    """What a training run was.

    Attributes:
        steps: optimiser steps done.
        losses: loss of every step, resumed ones included.
        seconds: wall-clock time of the steps, resumed ones included.
        stopped: why it ended before its last step, if it did.
        kept_step: the step whose weights were kept, where a measure was watched.
        warnings: what a user should know, in sentences.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None
    kept_step: int | None = None
    warnings: list[str] = field(default_factory=list)
