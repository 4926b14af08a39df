"""What the contrast benchmark measured, as a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contrast_forms import TEXTBOOK, Kind

GAP = 1e-5
"""Values of one loss that differ by more are not of one loss."""


@dataclass(frozen=True)
class Measurement:
    """One cell of the table.

    Attributes:
        part: the part of the benchmark.
        what: what was measured, and of what.
        beside: what it is held against.
        aim: what was aimed at, in words.
        n: rows of the batch.
        figure: the ratio or size; None where there is none.
        shown: the cell.
        details: all that was measured.
    """

    part: str
    what: str
    beside: str
    aim: str
    n: int
    figure: float | None
    shown: str
    details: dict[str, Any]


def kernel_time(kind: Kind) -> str:
    """What the kernel is timed for where the textbook form would be taken."""
    return f"time of the streaming kernel at any N, {kind}, ours / theirs"


def ratio(
    part: str, what: str, beside: str, aim: str, n: int, shares: Sequence[float], details: dict[str, Any]
) -> Measurement:
    """The median of the repeats, with the smallest and the largest."""
    middle = statistics.median(shares)
    digits = 2 if middle < 10 else 0
    shown = f"{middle:.{digits}f} ({min(shares):.{digits}f}–{max(shares):.{digits}f})"
    return Measurement(part, what, beside, aim, n, middle, shown, details)


def crossover(cells: Sequence[Measurement]) -> dict[str, int | None]:
    """By loss: the smallest measured N from which on the streaming kernel was faster than the textbook form."""
    found: dict[str, int | None] = {}
    for kind in TEXTBOOK:
        found[kind] = None
        times = {cell.n: cell.figure for cell in cells if cell.what == kernel_time(kind)}
        for n in sorted(times, reverse=True):
            if (times[n] or math.inf) >= 1:
                break
            found[kind] = n
    return found


def table(cells: Sequence[Measurement]) -> str:
    """One row for everything that was measured at several N."""
    sizes = sorted({cell.n for cell in cells})
    lines = [
        f"| what | beside | {' | '.join(f'{n:,}' for n in sizes)} | aim |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    for key in dict.fromkeys((cell.what, cell.beside, cell.aim) for cell in cells):
        row = {cell.n: cell for cell in cells if (cell.what, cell.beside, cell.aim) == key}
        gaps = [cell.details["gap"] for cell in row.values() if "gap" in cell.details]
        beside = key[1] + (f" (largest difference of the values {max(gaps):.0e})" if gaps else "")
        shown = " | ".join(row[n].shown if n in row else "" for n in sizes)
        lines.append(f"| {key[0]} | {beside} | {shown} | {key[2]} |")
    wrong = [cell for cell in cells if not cell.details.get("gap", 0) <= GAP]
    lines += [f"\nValues differ by more than {GAP}: {c.what}, {c.beside}, N = {c.n}" for c in wrong]
    return "\n".join(lines)
