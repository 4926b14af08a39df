"""Text encoders made of other text encoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.emojis import without_emojis
from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder
from nearfar.encoders.encoder import Encoder, Features
from nearfar.encoders.settings import read_settings, write_settings
from nearfar.errors import need


class ComposedText(Encoder):
    """What encoders that are made of encoders share: they are saved part by part.

    Args:
        parts: text encoders that all read what the first one prepares.
    """

    kind = Text

    def __init__(self, *parts: Encoder) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.dim = sum(part.dim for part in parts)
        self.pretrained = all(part.pretrained for part in parts)

    @property
    def first(self) -> Encoder:
        """The part that prepares."""
        return cast(Encoder, self.parts[0])

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """What the first part makes of B texts."""
        return self.first.prepare(rows)

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Batches as the first part cuts them."""
        return self.first.batches(rows, batch_size)

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text from now on, in every part.

        Raises:
            ArgumentError: a part has no such limit, or cannot take so many.
        """
        for part in self.parts:
            cast(Encoder, part).set_max_length(max_length)

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode what the first part prepared."""

    def settings(self) -> dict[str, Any]:
        """The settings of the parts, in order."""
        return {"parts": [cast(Encoder, part).settings() for part in self.parts]}

    def save(self, folder: Path) -> None:
        """Write every part into a folder of its own."""
        for number, part in enumerate(self.parts):
            place = folder / f"part-{number}"
            place.mkdir()
            cast(Encoder, part).save(place)
        write_settings(folder, self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, broken or of another encoder.
        """
        _, settings = read_settings(folder, expected=cls.__name__)
        return cls(*(load_encoder(folder / f"part-{n}") for n in range(len(settings["parts"])))).eval()


class ConcatenatedText(ComposedText):
    """The features of several encoders beside each other, each scaled to length 1.

    pooled = [f(s) / |f(s)| ; g(s) / |g(s)| ; ...]
    """

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode with every part."""
        found: list[Features] = [part(inputs) for part in self.parts]
        return Features(
            torch.cat([features.tokens for features in found], dim=-1),
            found[0].mask,
            torch.cat([functional.normalize(features.pooled, dim=-1) for features in found], dim=-1),
        )


class WithoutEmojis(ComposedText):
    """An encoder that never sees an emoji: they are taken out of every text before it reads it."""

    def __init__(self, encoder: Encoder) -> None:
        need("emoji", "emoji")
        super().__init__(encoder)

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """What the encoder makes of B texts without their emojis."""
        return super().prepare([without_emojis(text) for text in rows])

    def batches(
        self, rows: Sequence[Any], batch_size: int
    ) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Batches of texts without their emojis."""
        return super().batches([without_emojis(text) for text in rows], batch_size)

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode with the encoder."""
        return cast(Features, self.first(inputs))
