"""What a measurement is, and how several of one name are put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Better = Literal["higher", "lower", "closer_to_zero", "neither"]


@dataclass(frozen=True)
class Measurement:
    """One number about embeddings.

    Attributes:
        name: what it is called, with "/role" or "/role-to-role" where a table has several.
        value: the number.
        n: rows (queries, pairs) that it was taken on; fewer than the table has if it was sampled.
        better: where good values lie.
        about: what it says, in one sentence.
    """

    name: str
    value: float
    n: int
    better: Better
    about: str


def left_out(what: str, rows: int, n: int, why: str) -> Measurement:
    """Say that a measure, or `rows` of the table's `n`, were left out, and why."""
    return Measurement(f"left_out/{what}", float(rows), n, "neither", why)


def named(found: list[Measurement], suffix: str) -> list[Measurement]:
    """Put "/suffix" behind every name; an empty suffix changes nothing."""
    return [replace(m, name=f"{m.name}/{suffix}") if suffix else m for m in found]


def mean_over(parts: list[tuple[str, list[Measurement]]]) -> list[Measurement]:
    """With several partners or directions: each under its own name, and their mean under the bare one."""
    if len(parts) == 1:
        return parts[0][1]
    shared: dict[str, list[Measurement]] = {}
    for m in [m for _, measured in parts for m in measured if not m.name.startswith("left_out/")]:
        shared.setdefault(m.name, []).append(m)
    over = ", ".join(suffix for suffix, _ in parts)
    means = [
        replace(
            same[0],
            value=float(np.mean([m.value for m in same])),
            about=f"{same[0].about.split(',')[0]}, mean over {over}",
        )
        for same in shared.values()
        if len(same) == len(parts)
    ]
    return means + [m for suffix, measured in parts for m in named(measured, suffix)]
