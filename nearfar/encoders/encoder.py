"""What an encoder is: raw examples in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from nearfar.data.kinds import Kind
from nearfar.errors import ArgumentError


@dataclass
class Features:
    """What an encoder makes of a batch of B examples.

    Attributes:
        tokens: per-position states, [B, L, d] (L = tokens, patches, grid cells; 1 for plain vectors).
        mask: True where a position is valid, [B, L].
        pooled: one vector an example, [B, d].
        layers: states of every layer, input embeddings first, when asked for (else empty).
        attention: attention weights of every layer, after dropout, when asked for (else empty).
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()


class Encoder(nn.Module, ABC):
    """Raw examples of one kind to features of width `dim`.

    `prepare` runs outside the training step (in a background thread), so it must not touch the
    module's parameters or the global random state.
    """

    kind: ClassVar[type[Kind]]
    dim: int
    pretrained: bool = False
    """Whether its weights come from earlier training: it then wants a lower learning rate."""

    @abstractmethod
    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Turn B raw examples into tensors whose first dimension is B."""

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode what `prepare` returned."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `load` needs beside the weights, as JSON values; part of a space's fingerprint."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and settings (JSON) into an existing empty folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Never executes code from the folder."""

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Cut `rows` into batches for inference: (positions in `rows`, prepared tensors).

        An encoder whose cost depends on length orders them so that little or nothing is padded.
        """
        for start in range(0, len(rows), batch_size):
            positions = range(start, min(start + batch_size, len(rows)))
            yield positions, self.prepare([rows[i] for i in positions])

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text from now on.

        Raises:
            ArgumentError: it has no such limit, or cannot take so many.
        """
        raise ArgumentError(f"max_length={max_length}: {type(self).__name__} reads all of an example")

    def reset_counts(self) -> None:
        """Forget what `note` counts."""

    def note(self) -> str | None:
        """What users should know of the data it has read since `reset_counts`, such as texts cut off."""
        return None
