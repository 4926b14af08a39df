"""Pairs of rows for siamese training: as many with a label in common as without, for every two groups of rows."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.order import KeptOrder
from nearfar.errors import ArgumentError

DRAWS = 20
"""How often a far pair that has a label in common after all is drawn again."""


def shares_label(one: Tensor, two: Tensor) -> Tensor:
    """Whether rows have a label in common: bool [P] of labels [P, m] and [P, m], -1 where there is none."""
    return ((one[:, :, None] == two[:, None, :]) & (one[:, :, None] >= 0)).flatten(1).any(dim=1)


class _Members(NamedTuple):
    """The rows of each label within one group: those of label number k are rows[start[k] : start[k] + size[k]]."""

    rows: np.ndarray
    start: np.ndarray
    size: np.ndarray


class LabelPairs(KeptOrder):
    """Orders of an epoch in which rows 2k and 2k + 1 of every batch are a pair.

    Near pairs, which have a label in common, and far ones take turns; so do all two groups, each with itself too.
    Within two groups labels are drawn evenly, however many rows they have, and then rows of the label. Two groups
    without a label in common give far pairs only, two groups of one label near pairs only, and a group whose rows
    have no labels none.

    Args:
        labels: those of each row, whole numbers from 0, filled up with -1: int64 [N, m].
        groups: of each row, such as its language: [N].

    Raises:
        ArgumentError: no two rows have a label in common, or all have the same.
    """

    def __init__(self, labels: np.ndarray, groups: np.ndarray) -> None:
        super().__init__()
        self.labels = torch.from_numpy(labels)
        members = [_members(labels, groups == group) for group in np.unique(groups)]
        members = [own for own in members if len(own.rows)]
        two = list(combinations_with_replacement(range(len(members)), 2))
        near = [(a, b) for a, b in two if (_shared(members[a], members[b], a == b)).any()]
        far = [(a, b) for a, b in two if len(np.unique([*_seen(members[a]), *_seen(members[b])])) > 1]
        if not near or not far:
            raise ArgumentError(
                "pairs need rows with a label in common and rows without: here "
                + ("no two rows share one" if not near else "there is only one label")
            )
        self.members, self.near, self.far = members, near, far

    def _drawn(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        if batch_size % 2:
            raise ArgumentError(f"a batch of pairs must be even, got batch_size {batch_size}")
        random = np.random.default_rng([seed, epoch])
        n = -(-rows // 2)
        pairs = np.empty((n, 2), dtype=np.int64)
        for first, (kinds, draw) in enumerate(((self.near, self._near), (self.far, self._far))):
            places = random.permutation(np.arange(first, n, 2))
            for number, (a, b) in enumerate(kinds):
                own = places[number :: len(kinds)]
                pairs[own] = draw(a, b, len(own), random)
        return random.permuted(pairs, axis=1).reshape(-1)[:rows]

    def _near(self, a: int, b: int, n: int, random: np.random.Generator) -> np.ndarray:
        one, two = self.members[a], self.members[b]
        label = random.choice(np.flatnonzero(_shared(one, two, a == b)), n)
        place = random.integers(one.size[label])
        if a == b:  # any of the others
            other = (place + random.integers(1, one.size[label])) % one.size[label]
        else:
            other = random.integers(two.size[label])
        return np.stack([one.rows[one.start[label] + place], two.rows[two.start[label] + other]], axis=1)

    def _far(self, a: int, b: int, n: int, random: np.random.Generator) -> np.ndarray:
        pairs = np.stack([_any(self.members[group], n, random) for group in (a, b)], axis=1)
        for _ in range(DRAWS):
            again = np.flatnonzero(shares_label(*self.labels[pairs.T]).numpy())
            if not len(again):
                break
            pairs[again, 1] = _any(self.members[b], len(again), random)
            pairs[again, 0] = _any(self.members[a], len(again), random)
        return pairs


def _members(labels: np.ndarray, chosen: np.ndarray) -> _Members:
    row, place = np.nonzero((labels >= 0) & chosen[:, None])
    label = labels[row, place]
    size = np.bincount(label, minlength=int(labels.max()) + 1)
    return _Members(row[np.argsort(label, kind="stable")], np.cumsum(size) - size, size)


def _seen(of: _Members) -> np.ndarray:
    return np.flatnonzero(of.size)


def _shared(one: _Members, two: _Members, same_group: bool) -> np.ndarray:
    """Which labels give near pairs: in both groups, and on two rows where they are one group."""
    return one.size > 1 if same_group else (one.size > 0) & (two.size > 0)


def _any(of: _Members, n: int, random: np.random.Generator) -> np.ndarray:
    label = random.choice(_seen(of), n)
    return of.rows[of.start[label] + random.integers(of.size[label])]
