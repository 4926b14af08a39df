"""How long and how to train: everything that is not the method's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nearfar.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """Settings of one training run.

    Attributes:
        steps: optimiser steps; exactly one of `steps` and `epochs` is given.
        epochs: passes over the table.
        batch_size: examples whose embeddings are contrasted with each other (over all processes).
        learning_rate: peak of the schedule; parameters may scale it (`lr_mult`).
        weight_decay: AdamW's, on matrices only.
        warmup: share of the steps over which the learning rate rises from 0.
        schedule: what follows the warm-up.
        clip_norm: largest norm of the gradient; 0 turns clipping off.
        precision: Lightning Fabric's name; weights stay in float32.
        accumulate: batches whose gradients are added before a step. It gives smoother gradients,
            not more negatives: for those use a larger batch with `cache_chunk`.
        cache_chunk: examples encoded at once under gradient caching; None encodes the whole batch.
        seed: of the weights made from scratch, the order of rows, the views and dropout.
        checkpoint_every: steps between checkpoints; 0 writes none.
        measure_every: steps between measurements on held-out rows; 0 measures only at the ends.
        watch: measure that decides which weights are kept; None keeps the last ones.
        patience: measurements without improvement of `watch` after which training stops; 0 never stops.
        on_collapse: what to do when all embeddings become nearly the same.
        logs: where the curve of the loss goes.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 64
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip_norm: float = 1.0
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    accumulate: int = 1
    cache_chunk: int | None = None
    seed: int = 0
    checkpoint_every: int = 0
    measure_every: int = 0
    watch: str | None = None
    patience: int = 0
    on_collapse: Literal["stop", "warn"] = "stop"
    logs: Literal["csv", "tensorboard"] = "csv"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ArgumentError("give exactly one of steps and epochs")
        for name in ("steps", "epochs", "batch_size", "learning_rate", "accumulate", "cache_chunk"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ArgumentError(f"{name} must be greater than 0, not {value}")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ArgumentError(
                    f"{name} must be one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}"
                )
        if self.batch_size < 2:
            raise ArgumentError("batch_size must be at least 2: one example has no other to be far from")
        if not 0 <= self.warmup < 1:
            raise ArgumentError(f"warmup is a share of the steps, at least 0 and below 1, not {self.warmup}")
        if (self.patience or self.watch) and not self.measure_every:
            raise ArgumentError(
                "watch and patience need measure_every: training must be measured to be stopped"
            )
        if self.patience and not self.watch:
            raise ArgumentError("patience needs watch: the measure that must improve")

    def identity(self) -> dict[str, Any]:
        """Those settings that must be equal for a resumed run to be the same run."""
        return {name: value for name, value in vars(self).items() if name not in ("checkpoint_every", "logs")}

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for a table of `rows` rows."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * (rows // self.batch_size) / self.accumulate))
