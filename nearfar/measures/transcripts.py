"""How much of what was said a recogniser wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nearfar.measures.measurement import Measurement
from nearfar.space import Space

RECOGNISER = "recogniser"
"""The part of a space that reads characters off the states of frames (`nearfar.heads.ctc.CTCHead`)."""


def edit_distance(one: Sequence[Any], two: Sequence[Any]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein, 1966)."""
    number: dict[Any, int] = {}
    a, b = (np.array([number.setdefault(x, len(number)) for x in side]) for side in (one, two))
    steps = np.arange(len(b) + 1)
    row = steps
    for i, x in enumerate(a, start=1):
        # Without insertions first; an insertion then costs one for each place to the right.
        moved = np.concatenate([[i], np.minimum(row[1:] + 1, row[:-1] + (b != x))])
        row = np.minimum.accumulate(moved - steps) + steps
    return int(row[-1])


def error_rate(said: Sequence[Sequence[Any]], heard: Sequence[Sequence[Any]]) -> float:
    """Edits of all sequences together over the length of what was said: above 1 where more is heard than said.

    Strings give the character error rate, lists of words the word error rate.
    """
    edits = sum(edit_distance(a, b) for a, b in zip(said, heard, strict=True))
    return edits / max(1, sum(map(len, said)))


@torch.inference_mode()
def transcribe(space: Space, sounds: Sequence[Any], *, batch_size: int = 64) -> list[str]:
    """Write down what is said in sounds, by the recogniser of a space that `ctc` trained.

    Raises:
        KeyError: the space has no recogniser.
    """
    recogniser: Any = space.parts[RECOGNISER]
    heard = [""] * len(sounds)
    for positions, features in space.features(sounds, "audio", batch_size):
        texts = recogniser.read(recogniser(features.tokens), features.mask)
        for at, text in zip(positions, texts, strict=True):
            heard[at] = text
    return heard


def transcripts_of(pairs: Sequence[tuple[str, str]]) -> list[Measurement]:
    """Character and word error of (said, heard), both in lower case with single spaces."""
    said, heard = ([" ".join(text.lower().split()) for text in side] for side in zip(*pairs, strict=True))
    silent = sum(not text for text in heard)
    note = f"; {silent} of {len(pairs)} transcripts are empty" if silent else ""
    characters = error_rate(said, heard)
    words = error_rate([text.split() for text in said], [text.split() for text in heard])
    return [
        Measurement(
            "character_error", characters, len(pairs), "lower", f"edits per character of what was said{note}"
        ),
        Measurement("word_error", words, len(pairs), "lower", "edits per word of what was said"),
    ]
