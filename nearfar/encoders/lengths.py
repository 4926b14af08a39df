"""Batches of texts in which little or nothing is padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

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
