"""Hiding spans of a sequence, and cutting sequences to a length."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.data.sound import Sound
from nearfar.errors import check_between


def span_mask(
    lengths: Tensor, generator: torch.Generator, *, share: float = 0.65, span: int = 10, least: int = 2
) -> Tensor:
    """Choose spans of positions to hide.

        spans of a row = max(least, int(share T / span + u)), u ~ U(0, 1)

    Each is `span` long; they start anywhere in a row, no two at one place, and may overlap, so that a smaller
    share than `share` is hidden (0.65 and 10: about 49%). A row not longer than a span stays whole. Rows of equal
    length then lose hidden positions at random until they have equally many, as in fairseq, where all rows of a
    batch have one length.

    Baevski et al. "wav2vec 2.0." NeurIPS 2020, section 3.1; the rounding, and `least`, are fairseq's.

    Args:
        lengths: valid positions T of each row, [B].
        generator: all randomness.
        share: sum of the spans' lengths, as a share of T.
        span: positions of one span.
        least: fewest spans in a row.

    Returns:
        True where hidden, bool [B, max T].

    Raises:
        ArgumentError: an argument is out of range.
    """
    check_between(0, 1, share=share)
    check_between(1, torch.inf, span=span)
    counts = lengths.tolist()
    hidden = torch.zeros(len(counts), max(counts), dtype=torch.bool)
    for row, n in enumerate(counts):
        if n <= span:
            continue
        places = n - span + 1
        wanted = int(share * n / span + float(torch.rand((), generator=generator)))
        starts = torch.randperm(places, generator=generator)[: max(wanted, least)]
        hidden[row, (starts[:, None] + torch.arange(span)).flatten()] = True
    for n in set(counts):
        rows = [row for row, length in enumerate(counts) if length == n]
        fewest = int(hidden[rows].sum(dim=1).min())
        for row in rows:
            places_hidden = hidden[row].nonzero()[:, 0]
            spare = torch.randperm(len(places_hidden), generator=generator)[fewest:]
            hidden[row, places_hidden[spare]] = False
    return hidden


def random_crop(sound: Sound, seconds: float, generator: torch.Generator) -> Sound:
    """A piece of a sound, from anywhere in it, at most `seconds` long; nothing is padded."""
    keep = round(seconds * sound.rate)
    spare = len(sound.samples) - keep
    if spare <= 0:
        return sound
    start = int(torch.randint(spare + 1, (), generator=generator))
    return Sound(sound.samples[start : start + keep], sound.rate)
