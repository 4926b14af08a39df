"""Which rows of a joined batch a process compares, where several hold the same rows and share the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLACE: ContextVar[tuple[int, int] | None] = ContextVar(
    "place among processes of the same rows", default=None
)


@contextmanager
def joined_rows(rank: int, processes: int) -> Iterator[None]:
    """Inside, objectives may take it that all processes call them together, with the same rows in the same order.

    Each row of the result's gradient may then come from one of them alone, times the number of processes: what adds
    the gradients of rows over the processes, and takes the mean of those of parameters, gets the same as before.

    Args:
        rank: of this process, from 0.
        processes: how many there are; with one nothing changes.
    """
    token = _PLACE.set((rank, processes) if processes > 1 else None)
    try:
        yield
    finally:
        _PLACE.reset(token)


def own_rows(rows: int) -> slice | None:
    """The part of so many rows that is this process's, or None where it works alone."""
    place = _PLACE.get()
    if place is None:
        return None
    rank, processes = place
    return slice(rows * rank // processes, rows * (rank + 1) // processes)
