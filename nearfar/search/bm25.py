"""BM25: search by shared words, the baseline that embeddings have to beat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nearfar.errors import ArgumentError, need
from nearfar.search.ranking import best_first

_WORD = re.compile(r"\b\w\w+\b")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
"""Parts of identifiers, which are ASCII nearly always; other words stay whole."""


def words(text: str) -> list[str]:
    """Words of prose or code: lower case, English stop words left out, no stemming.

    An identifier counts as a whole and by its parts: `parseHTTPHeader` gives parsehttpheader, parse, http
    and header; `read_json` gives read_json, read and json. So words of a docstring meet the parts of names in
    code, and the baseline is a strong one.
    """
    stop = _stop_words()
    found: list[str] = []
    for word in _WORD.findall(text):
        parts = _PART.findall(word) if word.isascii() else []
        found += [word, *(part for part in parts if len(part) > 1 and len(parts) > 1)]
    return [word for word in map(str.lower, found) if word not in stop]


class BM25:
    """An index of texts by their words (Robertson, Zaragoza 2009; the form of Lucene, k1 1.5, b 0.75).

    Args:
        texts: N texts, at least one.

    Raises:
        ArgumentError: no text.
        MissingExtra: bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        if not len(texts):
            raise ArgumentError("BM25 needs at least one text")
        self._size = len(texts)
        tokens = [words(text) for text in texts]
        # bm25s cannot index texts that have no word at all.
        self._retriever: Any = (
            need("bm25s", "demo").BM25(k1=1.5, b=0.75, method="lucene") if any(tokens) else None
        )
        if self._retriever is not None:
            self._retriever.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` texts that score best for each query, best first; equal scores in the order of texts.

        A text that shares no word with the query scores 0.

        Args:
            queries: Q texts.
            k: how many; at most N are given.

        Returns:
            Scores float32 [Q, k] and texts int64 [Q, k].

        Raises:
            ArgumentError: k is below 1.
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        k = min(k, self._size)
        scores, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        every = torch.arange(self._size)
        for row, query in enumerate(queries):
            best, found = best_first(torch.from_numpy(self._scores(query))[None], every, k)
            scores[row], ids[row] = best[0].numpy(), found[0].numpy()
        return scores, ids

    def _scores(self, query: str) -> np.ndarray:
        known = (
            [] if self._retriever is None else [w for w in words(query) if w in self._retriever.vocab_dict]
        )
        if not known:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._retriever.get_scores(known), dtype=np.float32)


def _stop_words() -> frozenset[str]:
    return frozenset(need("bm25s.stopwords", "demo").STOPWORDS_EN)
