"""Which rows meet in a batch when nothing is known of them: a new random order every epoch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)  # asked for at every step; an accumulated step may reach into the next epoch
def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of 0..rows-1 that depends on the seed and the epoch only: int64 [rows], read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    order.setflags(write=False)
    return order


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
