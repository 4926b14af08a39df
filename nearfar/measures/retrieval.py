"""Retrieval: where the right keys stand when all keys are ordered by how near they are.

Every query has one or more positives, with gains where some are better than others. Ranks count from
1. Figures are means over queries:

    mrr@10       1 / rank of the best positive, 0 where that rank is above 10
    recall@k     share of the query's positives among its first k
    hit@k        1 where any positive is among the first k
    ndcg@10      sum_p gain_p / log2(1 + rank_p) over ranks up to 10, divided by its largest possible value
                 (linear gains, as trec_eval; Jarvelin, Kekalainen 2002)
    map          mean over positives of (positives up to and with this one) / rank
    mean_rank, median_rank    of the best positive

Keys of equal score: those that are not positive come first, so that a space in which everything is
equal gets the worst figures and not the best.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.nearness import as_products
from nearfar.measures.rows import Embeddings, Indices, blocks, same_width
from nearfar.progress import track

Floats = NDArray[np.float64]
DEPTH = 10
"""Depth of MRR and nDCG."""


def retrieval_metrics(
    queries: Embeddings,
    keys: Embeddings,
    positives: Sequence[ArrayLike] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    exclude: Sequence[ArrayLike] | None = None,
    grades: Sequence[ArrayLike] | None = None,
    geometry: str = "cosine",
) -> dict[str, float]:
    """Rank all keys for each query by how near they are and say where the positives stand; see the module.

    Blocks of queries meet all keys: Q M d operations, memory independent of Q times M.

    Args:
        queries: [Q, d].
        keys: [M, d].
        positives: for each query the positions of its positives in `keys`; None: key i for query i.
        ks: depths of recall and hit.
        exclude: for each query positions in `keys` that are not ranked, such as the query itself.
        grades: for each query the gains of its positives, above 0, in their order; None: all 1.
        geometry: a name of `nearfar.geometry.SCORES`, by which keys are ranked.

    Raises:
        ArgumentError: bad rows, or a query without positives, with one that is not a key, given twice or
            excluded, or with wrong gains (the row of the query is named).
    """
    questions, targets = as_products(queries, keys, geometry)
    same_width(questions, targets, ("queries", "keys"))
    q, m = len(questions), len(targets)
    if positives is None and q != m:
        raise ArgumentError(f"without `positives`, query i belongs to key i; got {q} queries and {m} keys")
    diagonal = list(np.arange(q)[:, None])
    relevant = _positions(diagonal if positives is None else positives, q, m, "positives")
    left_out = None if exclude is None else _positions(exclude, q, m, "exclude")
    gains = _gains(grades, [len(row) for row in relevant])
    ranks: list[Floats] = []
    for block in track(list(blocks(q, m)), "ranking keys"):
        scores = questions[block] @ targets.T
        if geometry == "gram":
            scores = np.abs(scores)
        for row, i in zip(scores, range(block.start, block.stop), strict=True):
            ranks.append(_ranks(row, relevant[i], None if left_out is None else left_out[i], i))
    return {
        **_figures(ranks, gains, ks),
        "mean_rank": float(np.mean([row.min() for row in ranks])),
        "median_rank": float(np.median([row.min() for row in ranks])),
    }


def ranking_metrics(
    ranked_ids: Sequence[Sequence[Hashable]] | NDArray[Any],
    positives: Sequence[Sequence[Hashable]] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    grades: Sequence[ArrayLike] | None = None,
) -> dict[str, float]:
    """The figures of the module for a ranker that gives no vectors, such as BM25.

    A positive that is not in the list counts as never found; `mean_rank` and `median_rank` are given only
    where every query finds a positive.

    Args:
        ranked_ids: for each query the ids it ranks, best first.
        positives: for each query the ids of its positives; None: id i for query i.
        ks: depths of recall and hit.
        grades: for each query the gains of its positives, above 0, in their order; None: all 1.

    Raises:
        ArgumentError: a query ranks an id twice, or has no positives, one twice, or wrong gains.
    """
    if positives is None:
        positives = [[i] for i in range(len(ranked_ids))]
    if len(ranked_ids) != len(positives) or not len(positives):
        raise ArgumentError(
            f"ranked_ids and positives need one entry a query, got {len(ranked_ids)} and {len(positives)}"
        )
    gains = _gains(grades, [len(row) for row in positives])
    ranks: list[Floats] = []
    for i, (ranked, relevant) in enumerate(zip(ranked_ids, positives, strict=True)):
        rank_of = {key: rank for rank, key in enumerate(ranked, start=1)}
        if len(rank_of) != len(ranked):
            raise ArgumentError(f"ranked_ids: query row {i + 1} ranks an id twice")
        if not len(relevant) or len(set(relevant)) != len(relevant):
            raise ArgumentError(f"positives: query row {i + 1} has none, or one twice")
        ranks.append(np.array([rank_of.get(key, np.inf) for key in relevant], dtype=np.float64))
    figures = _figures(ranks, gains, ks)
    best = [row.min() for row in ranks]
    if np.isfinite(best).all():
        figures |= {"mean_rank": float(np.mean(best)), "median_rank": float(np.median(best))}
    return figures


def _positions(rows: Sequence[ArrayLike], q: int, m: int, name: str) -> list[Indices]:
    if len(rows) != q:
        raise ArgumentError(f"{name} must hold one entry for each of the {q} queries, got {len(rows)}")
    checked = []
    for i, row in enumerate(rows):
        found = np.asarray(row, dtype=np.int64).ravel()
        if name == "positives" and not len(found):
            raise ArgumentError(f"positives: query row {i + 1} has none; leave such queries out")
        if len(found) and (found.min() < 0 or found.max() >= m):
            raise ArgumentError(f"{name}: query row {i + 1} names a key outside 0 ... {m - 1}")
        if len(np.unique(found)) != len(found):
            raise ArgumentError(f"{name}: query row {i + 1} names a key twice")
        checked.append(found)
    return checked


def _gains(grades: Sequence[ArrayLike] | None, sizes: list[int]) -> list[Floats]:
    if grades is None:
        return [np.ones(size) for size in sizes]
    gains = [np.asarray(row, dtype=np.float64) for row in grades]
    if len(gains) != len(sizes):
        raise ArgumentError(
            f"grades must hold one entry for each of the {len(sizes)} queries, got {len(gains)}"
        )
    for i, (row, size) in enumerate(zip(gains, sizes, strict=True)):
        if row.shape != (size,) or not (np.isfinite(row) & (row > 0)).all():
            raise ArgumentError(
                f"grades: query row {i + 1} needs {size} finite gains above 0, one a positive"
            )
    return gains


def _ranks(scores: NDArray[Any], positives: Indices, exclude: Indices | None, query: int) -> Floats:
    """Rank of each positive among all keys but the excluded: [P]."""
    other = np.ones(len(scores), dtype=bool)
    if exclude is not None:
        other[exclude] = False
        if not other[positives].all():
            raise ArgumentError(f"exclude: query row {query + 1} excludes one of its positives")
    other[positives] = False
    order = np.argsort(-scores[positives], kind="stable")
    ascending = scores[positives][order][::-1]
    beaten = np.searchsorted(ascending, scores[other], side="right")
    at_least = np.cumsum(np.bincount(beaten, minlength=len(positives) + 1)[::-1])[::-1]
    ranks = np.empty(len(positives))
    ranks[order] = at_least[1:][::-1] + np.arange(1, len(positives) + 1)
    return ranks


def _figures(ranks: list[Floats], gains: list[Floats], ks: Sequence[int]) -> dict[str, float]:
    if not ks or min(ks) < 1:
        raise ArgumentError(f"ks must hold depths of 1 or more, got {tuple(ks)}")
    best = np.array([row.min() for row in ranks])
    figures = {f"mrr@{DEPTH}": float(np.mean(np.where(best <= DEPTH, 1 / best, 0.0)))}
    for k in ks:
        figures[f"recall@{k}"] = float(np.mean([np.mean(row <= k) for row in ranks]))
        figures[f"hit@{k}"] = float(np.mean(best <= k))
    figures[f"ndcg@{DEPTH}"] = float(np.mean([_ndcg(*pair) for pair in zip(ranks, gains, strict=True)]))
    figures["map"] = float(np.mean([np.mean(np.arange(1, len(row) + 1) / np.sort(row)) for row in ranks]))
    return figures


def _ndcg(ranks: Floats, gains: Floats) -> float:
    ideal = np.sort(gains)[::-1][:DEPTH]
    shown = ranks <= DEPTH
    gained = np.sum(gains[shown] / np.log2(1 + ranks[shown]))
    return float(gained / np.sum(ideal / np.log2(1 + np.arange(1, len(ideal) + 1))))
