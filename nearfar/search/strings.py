"""How alike two strings are letter by letter: what linkage is held against. Case counts, and so do spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.errors import check_between

_CELLS = 1 << 21
"""Pairs of strings compared at once."""


def levenshtein(queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """1 - edit distance / length of the longer string, for every pair: float32 [Q, M], 1 where equal.

    The distance is the fewest insertions, deletions and replacements of single characters (Levenshtein 1966).

    Args:
        queries: Q strings.
        targets: M strings.
    """
    result = np.empty((len(queries), len(targets)), dtype=np.float32)
    (keys, key_lengths), step = _characters(targets), max(1, _CELLS // max(1, len(targets)))
    for start in range(0, len(queries), step):
        rows, lengths = _characters(queries[start : start + step])
        distance = _edit_distance(rows, lengths, keys, key_lengths)
        longer = np.maximum(lengths[:, None], key_lengths[None])
        result[start : start + step] = 1 - distance / np.maximum(longer, 1)
    return result


def _characters(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Code points [N, L], filled with 0, and lengths [N]."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    codes = np.zeros((len(texts), max(1, lengths.max(initial=0))), dtype=np.int32)
    for row, text in enumerate(texts):
        codes[row, : len(text)] = [ord(character) for character in text]
    return codes, lengths


def _edit_distance(
    rows: np.ndarray, lengths: np.ndarray, keys: np.ndarray, key_lengths: np.ndarray
) -> np.ndarray:
    """Of every row [Q, L] with every key [M, K], by the usual table, for all pairs at once: [Q, M]."""
    shape = (len(rows), len(keys))
    above = [np.full(shape, j, dtype=np.int16) for j in range(keys.shape[1] + 1)]
    result = np.where(lengths[:, None] == 0, key_lengths[None], 0)
    for i in range(1, rows.shape[1] + 1):
        line = [np.full(shape, i, dtype=np.int16)]
        for j in range(1, keys.shape[1] + 1):
            replaced = above[j - 1] + (rows[:, i - 1, None] != keys[None, :, j - 1])
            line.append(np.minimum(np.minimum(line[j - 1], above[j]) + 1, replaced).astype(np.int16))
        for row in np.flatnonzero(lengths == i):
            result[row] = np.stack([cells[row] for cells in line])[key_lengths, np.arange(len(keys))]
        above = line
    return result


def ngram_jaccard(queries: Sequence[str], targets: Sequence[str], n: int = 3) -> np.ndarray:
    """Shared n-grams of characters over all of both, for every pair: float32 [Q, M], 1 where equal.

    Strings get n - 1 spaces at both ends, so that short ones have n-grams and first letters count.

    Args:
        queries: Q strings.
        targets: M strings.
        n: characters of a gram.

    Raises:
        ArgumentError: n is below 1.
    """
    check_between(1, np.inf, n=n)
    numbers: dict[str, int] = {}
    one, two = (_grams(texts, n, numbers) for texts in (queries, targets))
    one.resize(len(queries), len(numbers))
    both = (one @ two.T).toarray().astype(np.float32)
    either = one.sum(1)[:, None] + two.sum(1)[None] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)


def _grams(texts: Sequence[str], n: int, numbers: dict[str, int]) -> Any:
    """Which n-grams each text has: sparse 0/1 [N, known so far]."""
    from scipy.sparse import csr_array

    columns: list[int] = []
    starts = [0]
    for text in texts:
        padded = " " * (n - 1) + text + " " * (n - 1)
        grams = {padded[at : at + n] for at in range(len(padded) - n + 1)}
        columns += sorted(numbers.setdefault(gram, len(numbers)) for gram in sorted(grams))
        starts.append(len(columns))
    ones = np.ones(len(columns), dtype=np.int32)
    return csr_array((ones, columns, starts), shape=(len(texts), len(numbers)))
