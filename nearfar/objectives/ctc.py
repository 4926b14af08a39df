"""Connectionist temporal classification: a text for a sequence of frames, without an alignment."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

BLANK = 0
"""The class of frames that stand for no character."""


def ctc_loss(log_probabilities: Tensor, frames: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Nats per character of all alignments together.

        loss = - sum_i log sum over paths a that collapse to y_i of prod_t p_t(a_t) / sum_i |y_i|

    A path collapses by merging repeats and dropping blanks. A text that has more characters (and blanks between
    equal ones) than its sound has frames has no path: it counts 0, without gradient.

    Graves, Fernandez, Gomez, Schmidhuber. "Connectionist Temporal Classification." ICML 2006, eq. 3 and 8.

    Args:
        log_probabilities: of blank (class 0) and characters, [B, T, 1 + A].
        frames: valid frames of each sound, [B].
        targets: characters from 1, padded with anything, int64 [B, L].
        lengths: characters of each text, [B].
    """
    losses = functional.ctc_loss(
        log_probabilities.transpose(0, 1).float(),
        targets,
        frames,
        lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / lengths.sum().clamp(min=1)


def collapsed(path: Tensor) -> list[int]:
    """The characters of a path [T]: repeats merged, then blanks dropped."""
    return [int(one) for one in torch.unique_consecutive(path) if one != BLANK]


def fewest_frames(characters: list[int]) -> int:
    """How many frames a text needs at least: one a character, and a blank between two equal ones."""
    return len(characters) + sum(a == b for a, b in pairwise(characters))
