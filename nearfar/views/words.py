"""Related and unrelated texts, made by changing the words that a text is about."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def word_relations(counts: np.ndarray, dim: int = 100) -> tuple[Tensor, Tensor]:
    """For each word the one that is used most like it, and the one that is used least like it.

    Args:
        counts: words of N texts [N, V], V at least 2.
        dim: of the vectors of `word_cosines`; at most V - 1.

    Returns:
        Numbers of words, int64 [V] each; no word is related to itself.
    """
    cosines = word_cosines(counts, dim)
    return cosines.fill_diagonal_(-torch.inf).argmax(1), cosines.fill_diagonal_(torch.inf).argmin(1)


def word_cosines(counts: np.ndarray, dim: int = 100) -> Tensor:
    """How alike words are used: cosines of vectors of their company.

    The vectors are the truncated singular vectors of the positive pointwise mutual information within texts.

    Args:
        counts: words of N texts [N, V], V at least 2.
        dim: of the vectors; at most V - 1.

    Returns:
        [V, V]; about 0 everywhere for a word that no other keeps company with more than by chance.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    n, words = counts.shape
    if words < 2:
        raise ArgumentError("word relations need two words or more")
    there = csr_array((counts > 0).astype(np.float32))
    together = (there.T @ there).toarray()
    alone = np.maximum(together.diagonal(), 1)
    np.fill_diagonal(together, 0)
    with np.errstate(divide="ignore"):
        ppmi = np.maximum(np.log(together * n / np.outer(alone, alone)), 0)
    dim = min(dim, words - 1)
    left, values, _ = svds(csr_array(ppmi), k=dim, random_state=0) if dim > 0 else (ppmi, np.ones(1), None)
    vectors = torch.from_numpy(np.ascontiguousarray(left * np.sqrt(values))).float()
    vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return vectors @ vectors.T


def replace_top_words(counts: Tensor, weights: Tensor, replacement: Tensor, n: int) -> Tensor:
    """Move the counts of the n words that say most of a text to the words that replace them.

    Args:
        counts: [B, V].
        weights: what a word weighs [V]: its inverse document frequency.
        replacement: number of the word that takes each word's place [V].
        n: words replaced in each text; fewer where it has fewer.

    Returns:
        [B, V], each row with the sum that it had.
    """
    n = min(n, counts.shape[1])
    top = (counts * weights).topk(n, dim=1).indices
    taken = counts.gather(1, top)
    moved = counts.scatter(1, top, 0.0)
    return moved.scatter_add(1, replacement[top], taken)
