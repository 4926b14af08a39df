"""Links between two tables against the true ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError


@dataclass(frozen=True)
class LinkageMetrics:
    """How well links match the truth; 1 is perfect for all four.

    Attributes:
        precision: share of the links that are true pairs; 1 where nothing is linked.
        recall: share of the true pairs that are linked; 1 where there is none.
        f1: of pairs, 2 right / (links + true pairs).
        accuracy: share of the queries that are answered rightly: linked to a true match, or left without a
            link where they have none.
        n: queries.
    """

    precision: float
    recall: float
    f1: float
    accuracy: float
    n: int


def linkage_metrics(found: ArrayLike, matches: Sequence[Collection[int]]) -> LinkageMetrics:
    """Compare the links of Q queries with their true matches.

    Args:
        found: the target that each query is linked to, -1 for none: integers [Q].
        matches: of each query the targets that are its matches; empty where it has none.

    Raises:
        ArgumentError: not one answer for each query, or no query.
    """
    links = np.asarray(found)
    if links.shape != (len(matches),) or not len(links):
        raise ArgumentError(
            f"found must hold one target for each of the {len(matches)} queries, got shape {links.shape}"
        )
    right = np.array([link in true for link, true in zip(links.tolist(), matches, strict=True)])
    linked, pairs = int((links >= 0).sum()), sum(len(true) for true in matches)
    alone = np.array([not true for true in matches])
    return LinkageMetrics(
        precision=float(right.sum() / linked) if linked else 1.0,
        recall=float(right.sum() / pairs) if pairs else 1.0,
        f1=float(2 * right.sum() / (linked + pairs)) if linked + pairs else 1.0,
        accuracy=float((right | (alone & (links < 0))).mean()),
        n=len(links),
    )
