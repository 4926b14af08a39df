"""Hard negatives: what a search finds for a query and is not an answer to it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from nearfar.data.table import Table
from nearfar.errors import TableError
from nearfar.progress import track

_BLOCK = 2048
"""Queries searched for at once."""


class Search(Protocol):
    """What `nearfar.search.Index` and `nearfar.search.BM25` have in common."""

    def search(self, queries: Any, k: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers [Q, k] of the k best for each query; -1 where there are fewer."""
        ...


@dataclass(frozen=True, eq=False)
class Corpus:
    """The different targets of a table, and which of them answer which queries.

    Rows with equal queries answer each other's: every target of any of them is known to be near. So is a
    target that reads like the query itself.

    Attributes:
        table: N rows.
        rows: of each of the M different targets the first row that holds it, int64 [M].
        asked: the number of each row's query, equal for equal queries, int64 [N].
        answers: query number * M + target number of every known pair, sorted, int64 [A].
    """

    table: Table
    rows: np.ndarray
    asked: np.ndarray
    answers: np.ndarray

    @classmethod
    def of(cls, table: Table, query: str, target: str) -> Self:
        """The corpus of two roles of a table, whose cells are texts, labels or numbers."""
        queries, targets = table.column(query), table.column(target)
        asked, number_of_query = _numbered(queries)
        given, number_of_target = _numbered(targets)
        echoes = [
            number * len(number_of_target) + number_of_target[cell]
            for cell, number in number_of_query.items()
            if cell in number_of_target
        ]
        pairs = asked * len(number_of_target) + given
        rows = np.unique(given, return_index=True)[1]
        return cls(table, rows, asked, np.union1d(pairs, np.array(echoes, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.rows)

    def near(self, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which of the targets found for some rows of the table are known to be near: bool [R, K].

        Args:
            found: numbers of targets, int64 [R, K]; -1 is none.
            rows: R rows of the table.
        """
        pairs = self.asked[rows][:, None] * len(self) + found
        places = np.searchsorted(self.answers, pairs).clip(max=len(self.answers) - 1)
        return (self.answers[places] == pairs) & (found >= 0)


def mine(
    search: Search, queries: Any, corpus: Corpus, top_k: int, n: int, random: np.random.Generator
) -> np.ndarray:
    """Negatives for every row of a table: n of the best K targets for its query, without those known to be near.

    The hits are shuffled evenly and the first n that are not near are kept, as by Xiong et al. (ANCE, ICLR
    2021): K is how hard negatives are at least; K = M draws evenly from all that is not near.

    Args:
        search: over the M targets of the corpus, in its order.
        queries: of the N rows of the table: what `search` takes, [N, ...].
        corpus: of that table.
        top_k: K.
        n: negatives of a row.
        random: shuffles.

    Returns:
        Rows of the table whose target is a negative of row i, int64 [N, min(n, K, M)]; -1, at the end, where
        fewer were found.

    Raises:
        TableError: nothing but known positives is found for a row.
    """
    size = len(corpus.asked)
    mined = np.empty((size, min(n, top_k, len(corpus))), dtype=np.int64)
    for start in track(range(0, size, _BLOCK), "mining negatives"):
        rows = np.arange(start, min(start + _BLOCK, size))
        found = search.search(queries[start : start + _BLOCK], top_k)[1]
        mined[rows] = choose(found, corpus, rows, n, random)
    return mined


def choose(
    found: np.ndarray, corpus: Corpus, rows: np.ndarray, n: int, random: np.random.Generator
) -> np.ndarray:
    """Of the targets found for some rows keep n, drawn evenly, that are not known to be near.

    Args:
        found: numbers of targets, int64 [R, K]; -1 is none.
        corpus: what is near.
        rows: R rows of the table.
        n: targets kept of each row.
        random: draws.

    Returns:
        Rows of the table that hold them, int64 [R, min(n, K)], as `mine`.

    Raises:
        TableError: as `mine`.
    """
    barred = (found < 0) | corpus.near(found, rows)
    if (only_near := barred.all(axis=1)).any():
        [row] = corpus.table.row_numbers(rows[only_near][:1])
        raise TableError(
            f"{corpus.table.name}: of the {found.shape[1]:,} targets found for row {row} none is a negative, each is "
            f"known to be near its query ({len(corpus):,} different targets in all): search for more with a larger "
            "top_k, or give rows with other targets"
        )
    priority = np.where(barred, np.inf, random.random(found.shape))
    first = np.argsort(priority, axis=1)[:, :n]
    chosen = corpus.rows[np.take_along_axis(found, first, axis=1)]
    return np.where(np.take_along_axis(barred, first, axis=1), -1, chosen)


def _numbered(cells: Sequence[Hashable]) -> tuple[np.ndarray, dict[Hashable, int]]:
    """Numbers of cells by value, in order of first appearance, and the number of each value."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], dtype=np.int64), numbers
