"""Stretches of rows that follow each other in time and stay within one episode."""

from __future__ import annotations

import numpy as np

from nearfar.errors import ArgumentError


def windows(
    sequence: np.ndarray, past: int = 0, future: int = 0, numbers: np.ndarray | None = None
) -> np.ndarray:
    """All stretches of `past` rows, a row, and `future` rows that do not leave their sequence.

    Args:
        sequence: what each of N rows, in order of time, belongs to (episode, dialogue, recording): [N].
        past: rows before.
        future: rows after.
        numbers: where the rows stood in the table that they were taken from, [N]; rows between which one is
            missing do not follow each other. None: none is missing.

    Returns:
        Row indices, int64 [W, past + 1 + future], by their first row.

    Raises:
        ArgumentError: `past` or `future` is below 0, or the lengths differ.
    """
    if past < 0 or future < 0:
        raise ArgumentError(f"past and future must be 0 or more, got {past} and {future}")
    place = np.arange(len(sequence)) if numbers is None else np.asarray(numbers)
    if len(place) != len(sequence):
        raise ArgumentError(f"{len(sequence)} rows need as many numbers, got {len(place)}")
    follows = (np.asarray(sequence)[1:] == np.asarray(sequence)[:-1]) & (np.diff(place) == 1)
    stretch = np.concatenate([[0], np.cumsum(~follows)])[: len(sequence)]
    length = past + 1 + future
    starts = np.arange(max(0, len(sequence) - length + 1))
    starts = starts[stretch[starts] == stretch[starts + length - 1]]
    return starts[:, None] + np.arange(length)


def discounted(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Sums over n steps of what each row earns: sum_i discount^i r_i of rewards [..., n], float64 [...]."""
    return np.asarray(rewards, dtype=np.float64) @ discount ** np.arange(np.shape(rewards)[-1])


def spread(values: np.ndarray) -> float:
    """Standard deviation of rewards or returns [N], to divide them by; 1 where they are all equal."""
    deviation = float(np.std(values))
    return deviation if deviation > 1e-9 * float(np.abs(values).max()) else 1.0


def order_of_some(chosen: np.ndarray, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """An order of an epoch, as `Method.order`, in which only the chosen rows come.

    They are drawn anew every epoch; the places of the others are filled by a second draw, and so on. Within a
    batch a row comes twice only where two draws meet.

    Args:
        chosen: row numbers, int64 [C], at least `batch_size`.
        rows: of the table.
        batch_size: of the batches.
        seed: of the draws.
        epoch: of the draws.

    Raises:
        ArgumentError: fewer rows are chosen than fill a batch.
    """
    if len(chosen) < batch_size:
        raise ArgumentError(
            f"only {len(chosen)} rows can be used, fewer than one batch of {batch_size}: pass --batch-size "
            f"{len(chosen)} or less"
        )
    draw = np.random.default_rng([seed, epoch])
    return np.concatenate([draw.permutation(chosen) for _ in range(-(-rows // len(chosen)))])[:rows]
