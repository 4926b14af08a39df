"""Pairs by label and group, and running order: what every batch must hold."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from nearfar.batching.order import running_order
from nearfar.batching.pairs import LabelPairs, shares_label
from nearfar.errors import ArgumentError


def table(rich: int = 300, poor: int = 30, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, 1], the first class half of the rich rows, and groups: 0 is rich, 1 and 2 are poor."""
    drawn = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [rich, poor, poor])
    labels = drawn.integers(0, classes, len(groups))
    labels[: rich // 2] = 0
    return labels[:, None], groups


def pairs_of(made: LabelPairs, rows: int, batch_size: int = 8, epoch: int = 0) -> np.ndarray:
    return made.order(rows, batch_size, 0, epoch).reshape(-1, 2).copy()


def test_near_and_far_pairs_are_as_many_in_every_batch() -> None:
    labels, groups = table()
    pairs = pairs_of(LabelPairs(labels, groups), 720)
    same = labels[pairs[:, 0], 0] == labels[pairs[:, 1], 0]
    assert same.reshape(-1, 4).sum(1).tolist() == [2] * 90
    assert (pairs[:, 0] != pairs[:, 1]).all(), "a row is no pair with itself"


def test_a_group_without_labels_takes_no_part() -> None:
    labels, groups = table()
    labels[groups == 1] = -1
    pairs = pairs_of(LabelPairs(labels, groups), 720)
    assert set(groups[pairs.ravel()]) == {0, 2}


def test_all_two_groups_come_equally_often_near_and_far() -> None:
    labels, groups = table()
    pairs = pairs_of(LabelPairs(labels, groups), 720)
    same = labels[pairs[:, 0], 0] == labels[pairs[:, 1], 0]
    found = Counter((*sorted(groups[pair]), bool(near)) for pair, near in zip(pairs, same, strict=True))
    assert len(found) == 12
    assert set(found.values()) == {30}
    assert {key[:2] for key in found} == set(combinations_with_replacement(range(3), 2))


def test_a_common_label_does_not_fill_the_batches() -> None:
    labels, groups = table()
    pairs = pairs_of(LabelPairs(labels, np.zeros_like(groups)), 4000)
    share = np.bincount(labels[pairs.ravel(), 0]) / pairs.size
    assert np.bincount(labels[:, 0])[0] / len(labels) > 0.5
    np.testing.assert_allclose(share, 0.25, atol=0.03)


def test_which_of_a_pair_comes_first_is_drawn() -> None:
    labels, groups = table()
    pairs = pairs_of(LabelPairs(labels, groups), 4000)
    mixed = groups[pairs[:, 0]] != groups[pairs[:, 1]]
    assert 0.4 < (groups[pairs[mixed, 0]] < groups[pairs[mixed, 1]]).mean() < 0.6


def test_orders_are_functions_of_seed_and_epoch() -> None:
    labels, groups = table()
    made = LabelPairs(labels, groups)
    first = made.order(360, 8, 0, 0)
    assert made.order(360, 8, 0, 0) is first, "kept"
    assert not np.array_equal(first, made.order(360, 8, 0, 1))
    assert not np.array_equal(first, made.order(360, 8, 1, 0))
    made.order(360, 8, 0, 2)
    assert np.array_equal(first, made.order(360, 8, 0, 0))
    assert np.array_equal(first, LabelPairs(labels, groups).order(360, 8, 0, 0))
    assert len(made.order(361, 8, 0, 0)) == 361


def test_rows_with_several_labels_are_near_if_one_is_common() -> None:
    one = torch.tensor([[0, 1, -1], [0, 1, 2], [-1, -1, -1], [3, -1, -1]])
    two = torch.tensor([[1, 5, -1], [3, 4, 5], [-1, -1, -1], [-1, -1, 3]])
    assert shares_label(one, two).tolist() == [True, False, False, True]


def test_far_pairs_of_rows_with_several_labels_have_none_in_common() -> None:
    drawn = np.random.default_rng(1)
    labels = np.stack([drawn.integers(0, 3, 60), drawn.integers(3, 6, 60)], axis=1)
    pairs = torch.from_numpy(pairs_of(LabelPairs(labels, np.zeros(60)), 480))
    near = shares_label(*torch.from_numpy(labels)[pairs.T])
    assert near.reshape(-1, 2)[:, 0].all()
    assert not near.reshape(-1, 2)[:, 1].any()


def test_groups_without_a_common_label_give_far_pairs_only() -> None:
    labels, groups = np.array([[0], [0], [1], [1]]), np.array([0, 0, 1, 1])
    pairs = pairs_of(LabelPairs(labels, groups), 40, 4)
    mixed = groups[pairs[:, 0]] != groups[pairs[:, 1]]
    assert np.array_equal(mixed, labels[pairs[:, 0], 0] != labels[pairs[:, 1], 0])
    assert mixed.mean() == 0.5


def test_unlabelled_rows_are_never_drawn() -> None:
    labels = np.array([[0], [-1], [0], [1], [-1], [1]])
    assert set(LabelPairs(labels, np.zeros(6)).order(60, 4, 0, 0)) == {0, 2, 3, 5}


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no two rows share one"):
        LabelPairs(np.arange(4)[:, None], np.zeros(4))
    with pytest.raises(ArgumentError, match="only one label"):
        LabelPairs(np.zeros((4, 1), dtype=int), np.zeros(4))
    with pytest.raises(ArgumentError, match="no two rows share one"):
        LabelPairs(np.full((4, 1), -1), np.zeros(4))
    with pytest.raises(ArgumentError, match="even"):
        LabelPairs(np.array([[0], [0], [1]]), np.zeros(3)).order(3, 3, 0, 0)


def test_running_order_goes_round_and_round() -> None:
    first, second = running_order(10, 4, 0), running_order(10, 4, 1)
    assert first.tolist() == list(range(10))
    assert second[:8].tolist() == [8, 9, 0, 1, 2, 3, 4, 5], "the rows that were left over come first"
    assert running_order(8, 4, 3).tolist() == list(range(8))
