"""Batches of two sources: never mixed, in the rhythm that was asked for, every row of a source before any again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.batching.mixed import EveryNth
from nearfar.errors import ArgumentError


@given(
    rare=st.integers(4, 30),
    common=st.integers(4, 60),
    size=st.integers(1, 4),
    n=st.none() | st.integers(1, 5),
)
def test_every_nth_batch_is_of_the_rare_source_alone(
    rare: int, common: int, size: int, n: int | None
) -> None:
    rows = rare + common
    mixed = EveryNth(np.arange(rare), np.arange(rare, rows), n)
    assert mixed.n == (n or max(2, common // rare))
    order = mixed.order(rows, size, seed=1, epoch=2)
    assert len(order) == rows
    batches = order[: rows // size * size].reshape(-1, size)
    for i, batch in enumerate(batches):
        assert set(batch < rare) == {i % mixed.n == 0}
        assert len(set(batch)) == size
    for source in (batches[batches[:, 0] < rare], batches[batches[:, 0] >= rare]):
        whole = (rare if source.size and source[0, 0] < rare else common) // size
        assert len(np.unique(source[:whole])) == source[:whole].size, "a row came twice before all came once"


def test_both_come_about_as_often_by_default() -> None:
    mixed = EveryNth(np.arange(100), np.arange(100, 900))
    assert mixed.n == 8
    order = mixed.order(900, 10, 0, 0)
    assert (order < 100).sum() == 120
    assert len(np.unique(order[order < 100])) == 100


def test_another_order_every_epoch_and_seed_and_the_same_when_asked_again() -> None:
    mixed = EveryNth(np.arange(20), np.arange(20, 80))
    orders = {(s, e): mixed.order(80, 4, s, e).tolist() for s in (0, 1) for e in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    again = EveryNth(np.arange(20), np.arange(20, 80))
    assert all(again.order(80, 4, *key).tolist() == order for key, order in orders.items())


def test_one_source_alone_and_a_batch_that_cannot_be_filled() -> None:
    alone = EveryNth(np.arange(9), np.arange(0)).order(9, 4, 0, 0)
    assert sorted(alone[:8]) == sorted(set(alone[:8]))
    with pytest.raises(ArgumentError, match=r"3 rows .* do not fill a batch of 4: pass --batch-size 3"):
        EveryNth(np.arange(3), np.arange(3, 30)).order(30, 4, 0, 0)
    with pytest.raises(ArgumentError, match="no rows"):
        EveryNth(np.arange(0), np.arange(5))
    with pytest.raises(ArgumentError, match="n=0"):
        EveryNth(np.arange(3), np.arange(5), 0)
