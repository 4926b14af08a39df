"""Batches put together class by class, so that every row meets others of its own."""

from __future__ import annotations

import numpy as np


def class_groups(labels: np.ndarray, m: int, random: np.random.Generator) -> np.ndarray:
    """Cut the rows of each class into groups of m, without replacement.

    Where fewer than m rows are left, random rows of the class come in once more.

    Args:
        labels: class of each row, [N].
        m: rows of a group.
        random: draws which rows meet.

    Returns:
        Row numbers, int64 [G, m]; every row is in a group.
    """
    groups = []
    for rows in _rows_of_classes(labels):
        rows = random.permutation(rows)
        short = -len(rows) % m
        groups.append(np.concatenate([rows, random.choice(rows, short)]).reshape(-1, m))
    return np.concatenate(groups)


def one_of_each(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random row of each class, in the order of classes: int64 [C]."""
    return np.array([random.choice(rows) for rows in _rows_of_classes(labels)], dtype=np.int64)


def neighbour_groups(
    labels: np.ndarray, neighbours: np.ndarray, m: int, random: np.random.Generator
) -> np.ndarray:
    """For each class one group: m random rows, with replacement, of each of its nearest classes.

    Args:
        labels: class of each row, [N].
        neighbours: of each class the positions of its k nearest among the sorted classes, itself included,
            int64 [C, k].
        m: rows of a class.
        random: draws the rows.

    Returns:
        Row numbers, int64 [C, k m], the rows of one class beside each other.
    """
    rows = _rows_of_classes(labels)
    return np.stack([np.concatenate([random.choice(rows[c], m) for c in near]) for near in neighbours])


def _rows_of_classes(labels: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.unique(labels[order], return_index=True)[1][1:])
