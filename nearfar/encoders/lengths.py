"""Batches of texts in which little or nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.encoders.encoder import Features

if TYPE_CHECKING:
    from nearfar.encoders.text import TransformerText

TINY_GROUP = 4
"""Below this mean number of rows of one length, exact groups cost more calls than padding costs work."""


def length_groups(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Cut positions into batches of at most `batch_size`, longest first.

    All rows of a batch are equally long, unless there are so few rows of each length that the
    batches would be tiny; then neighbours in length share one.

    Args:
        lengths: number of tokens of each row.
        batch_size: most rows in a batch.

    Yields:
        Positions in `lengths`; every position once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    exact = len(lengths) >= TINY_GROUP * len(set(lengths))
    groups = [list(rows) for _, rows in groupby(order, key=lengths.__getitem__)] if exact else [order]
    for group in groups:
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


SMALLEST = 8
"""Fewest rows worth a pass of their own."""
SLACK = 0.85
"""A row this much shorter than the longest of its group starts a new one."""
WORTH = 0.1
"""Share of the padded positions that groups must save, or the batch stays whole."""


def near_length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """Cut the rows of one batch into groups of similar length, longest first.

    Args:
        lengths: number of tokens of each row.

    Returns:
        Positions in `lengths`, every position once; one group where cutting would save little.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [[order[0]]]
    for i in order[1:]:
        if lengths[i] < SLACK * lengths[groups[-1][0]] and len(groups[-1]) >= SMALLEST:
            groups.append([])
        groups[-1].append(i)
    computed = sum(len(group) * lengths[group[0]] for group in groups)
    whole = len(lengths) * lengths[order[0]]
    return groups if whole - computed > WORTH * whole else [order]


def joined(parts: Sequence[Features], groups: Sequence[Sequence[int]], mask: Tensor) -> Features:
    """Features of a whole batch from those of its groups.

    Args:
        parts: features of each group, padded to the longest row of the group.
        groups: the rows of each part, as positions in the batch.
        mask: of the whole batch, [B, L].
    """
    length = mask.shape[1]
    back = torch.argsort(torch.tensor([row for group in groups for row in group]))
    tokens = torch.cat(
        [functional.pad(part.tokens, (0, 0, 0, length - part.tokens.shape[1])) for part in parts]
    )
    return Features(tokens[back], mask, torch.cat([part.pooled for part in parts])[back])


def parts_read(encoder: TransformerText, texts: Sequence[str]) -> list[str]:
    """The beginning of every text that the encoder's limit leaves: all of one that is short enough."""
    return [
        text[: max((end for _, end in found.offsets), default=0)] if found.overflowing else text
        for text, found in zip(texts, encoder._splitter.encode_batch(list(texts)), strict=True)
    ]
