"""Stretches of rows within one episode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.batching.windows import discounted, order_of_some, windows
from nearfar.errors import ArgumentError


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=14), st.integers(0, 3), st.integers(0, 3)
)
def test_windows_are_all_stretches_of_one_sequence_without_a_gap(
    rows: list[tuple[int, bool]], past: int, future: int
) -> None:
    sequence = np.array([name for name, _ in rows], dtype=np.int64)
    numbers = np.cumsum([1 + gap for _, gap in rows]) if rows else np.empty(0, dtype=np.int64)
    length = past + 1 + future
    expected = [
        list(range(i, i + length))
        for i in range(len(rows) - length + 1)
        if len(set(sequence[i : i + length])) == 1 and (np.diff(numbers[i : i + length]) == 1).all()
    ]
    found = windows(sequence, past, future, numbers)
    assert found.shape == (len(expected), length)
    assert found.tolist() == expected


def test_an_episode_that_comes_back_is_not_joined_over_the_gap() -> None:
    assert windows(np.array([7, 7, 8, 7, 7]), 0, 1).tolist() == [[0, 1], [3, 4]]
    assert windows(np.array([7, 7, 7, 7]), 0, 1, np.array([1, 2, 4, 5])).tolist() == [[0, 1], [2, 3]]


def test_what_is_no_window_is_refused() -> None:
    with pytest.raises(ArgumentError, match="past and future"):
        windows(np.zeros(3), -1, 0)
    with pytest.raises(ArgumentError, match="3 rows need as many numbers"):
        windows(np.zeros(3), 0, 1, np.arange(2))


def test_rewards_are_summed_over_all_steps_and_discounted() -> None:
    assert discounted(np.array([[1.0, 10, 100], [0, 0, 1]]), 0.5).tolist() == [1 + 5 + 25, 0.25]
    assert discounted(np.array([[1.0, 10, 100]]), 1.0).tolist() == [111]
    assert discounted(np.array([[1.0, 10, 100]]), 0.0).tolist() == [1]


def test_only_chosen_rows_come_and_all_of_them_before_one_comes_again() -> None:
    chosen = np.array([3, 5, 6, 9])
    order = order_of_some(chosen, 10, 4, seed=1, epoch=2)
    assert len(order) == 10
    assert sorted(order[:4]) == sorted(order[4:8]) == chosen.tolist()
    assert (order == order_of_some(chosen, 10, 4, seed=1, epoch=2)).all()
    others = [order_of_some(chosen, 10, 4, seed=s, epoch=e).tolist() for s, e in ((2, 2), (1, 3))]
    assert order.tolist() not in others
    with pytest.raises(ArgumentError, match="--batch-size 4 or less"):
        order_of_some(chosen, 10, 5, seed=0, epoch=0)
