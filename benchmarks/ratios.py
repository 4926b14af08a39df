"""How the benchmarks time: both sides in turn, many times, and the ratio of the medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Side = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """One comparison.

    Attributes:
        what: what was timed.
        peer: what it is held against.
        ours: seconds of every repeat.
        theirs: seconds of every repeat of the peer, taken in turn with ours.
        mark: what was aimed at, in words.
    """

    what: str
    peer: str
    ours: list[float]
    theirs: list[float]
    mark: str

    @property
    def faster(self) -> float:
        """Median time of the peer over ours: above 1 we are faster."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


def seconds(side: Side) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def in_turn(what: str, peer: str, mark: str, ours: Side, theirs: Side, repeats: int = 5) -> Ratio:
    """Time both sides in turn, after one call of each that is not counted."""
    ours()
    theirs()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        taken[0].append(seconds(ours))
        taken[1].append(seconds(theirs))
    return Ratio(what, peer, *taken, mark)
