"""Which rows meet in a batch: at random, in running order, or as something drawn and kept says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)  # asked for at every step; an accumulated step may reach into the next epoch
def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of 0..rows-1 that depends on the seed and the epoch only: int64 [rows], read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order.setflags(write=False)
    return order


def running_order(rows: int, batch_size: int, epoch: int) -> np.ndarray:
    """Rows as they follow each other: every batch is a stretch of the table, int64 [rows].

    An epoch begins where the whole batches of the one before have ended, and goes on from the first row after the last.
    """
    return np.roll(np.arange(rows), -epoch * batches_per_epoch(rows, batch_size) * batch_size)


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Whole batches in one pass; the rows left over come first to mind in another epoch's order."""
    return rows // batch_size


def batch_of(
    order: np.ndarray, number: int, batch_size: int, rank: int = 0, processes: int = 1
) -> np.ndarray:
    """The rows of batch `number`, or this process's contiguous share of them."""
    share = batch_size // processes
    start = number * batch_size + rank * share
    return order[start : start + share]


class KeptOrder(ABC):
    """Orders of an epoch that take time to draw: they are asked for at every step, and kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int, int], np.ndarray] = {}

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """As `Method.order`: int64 [rows], read-only, a function of its arguments.

        Raises:
            ArgumentError: the batch size does not fit.
        """
        key = (rows, batch_size, seed, epoch)
        if key not in self._kept:
            made = self._drawn(*key)
            made.setflags(write=False)
            # An accumulated step may reach into the next epoch: two orders are in use at a time.
            self._kept = {**dict(list(self._kept.items())[-1:]), key: made}
        return self._kept[key]

    @abstractmethod
    def _drawn(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """What `order` returns, drawn."""
