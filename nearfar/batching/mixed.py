"""Batches of two sources that take turns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from nearfar.errors import ArgumentError


class EveryNth:
    """Of every n batches the first is drawn from one source, the others from the other; no batch mixes them.

    Each source comes in a random order, and in another one when it has been through, as an endless loader of shuffled
    batches; what does not fill a batch at the end of its turn is left out of it.

    Args:
        rare: rows of the source that comes every n batches, int64 [R].
        common: rows of the other source, int64 [C]; may be empty, and all batches are then of the first.
        n: by default, as many as make both come about equally often through: C // R, at least 2.

    Raises:
        ArgumentError: n is below 1, or `rare` is empty.
    """

    def __init__(self, rare: np.ndarray, common: np.ndarray, n: int | None = None) -> None:
        if not len(rare):
            raise ArgumentError("the source that comes every n batches has no rows")
        self.rare, self.common = rare, common
        self.n = max(2, len(common) // len(rare)) if n is None else n
        if self.n < 1:
            raise ArgumentError(f"n={n}: every batch is the first of at least 1")
        self._order = lru_cache(maxsize=2)(self._drawn)  # asked for at every step

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """The rows of an epoch, as `Method.order`: int64 [rows].

        Raises:
            ArgumentError: a source has fewer rows than a batch.
        """
        return self._order(rows, batch_size, seed, epoch)

    def _drawn(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        rare = _endless(self.rare, "first", batch_size, [seed, epoch, 0])
        common = rare
        if len(self.common):
            common = _endless(self.common, "second", batch_size, [seed, epoch, 1])
        batches = [next(common if i % self.n else rare) for i in range(-(-rows // batch_size))]
        return np.concatenate(batches)[:rows]


def _endless(source: np.ndarray, kind: str, batch_size: int, seed: list[int]) -> Iterator[np.ndarray]:
    if len(source) < batch_size:
        raise ArgumentError(
            f"{len(source)} rows of the {kind} kind do not fill a batch of {batch_size}: pass --batch-size "
            f"{len(source)} or less, or leave these rows out"
        )
    draw = np.random.default_rng(seed)
    while True:
        order = draw.permutation(source)
        yield from order[: len(order) - len(order) % batch_size].reshape(-1, batch_size)
