"""Whether topics are coherent and differ from each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError


def npmi(topics: ArrayLike, counts: ArrayLike) -> float:
    """Coherence: how much more often the words of a topic meet in a text than by chance, -1 to 1.

        mean over topics and pairs of log( N n_ij / (n_i n_j) ) / log( N / n_ij ),   0 for pairs that never meet

    Lau, Newman, Baldwin. "Machine Reading Tea Leaves." EACL 2014. As often computed for neural topic models, a
    pair that never meets counts 0, not -1; so does one that meets in every text.

    Args:
        topics: numbers of the top words of each topic [T, n].
        counts: words of N texts [N, V]; best of other texts than the topics were learned from.

    Raises:
        ArgumentError: a topic has fewer than two words, or a number is no word.
    """
    chosen, there = np.asarray(topics), np.asarray(counts) > 0
    if chosen.ndim != 2 or chosen.shape[1] < 2:
        raise ArgumentError(f"topics must be lists of two words or more, got shape {chosen.shape}")
    if there.ndim != 2 or chosen.min() < 0 or chosen.max() >= there.shape[1]:
        raise ArgumentError(f"topics name words up to {chosen.max()}, counts are of shape {there.shape}")
    n = len(there)
    values = []
    for words in chosen:
        seen = there[:, words].astype(np.float64)
        together = seen.T @ seen
        for i, j in combinations(range(len(words)), 2):
            both = together[i, j]
            if both == 0 or both == n:
                values.append(0.0)
                continue
            values.append(np.log(n * both / (together[i, i] * together[j, j])) / np.log(n / both))
    return float(np.mean(values))


def topic_diversity(topics: ArrayLike) -> float:
    """Share of different words among the top words of all topics [T, n]: 1 where none comes twice.

    Dieng, Ruiz, Blei. "Topic Modeling in Embedding Spaces." TACL 2020 (there with n = 25).
    """
    chosen = np.asarray(topics)
    return float(len(np.unique(chosen)) / chosen.size)
