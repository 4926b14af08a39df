"""Batches in which every text has one known false negative."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.methods.sentence.simcse import SimCSE
from nearfar.recipes.known_duplicates import BATCH, batches, same_picture, together


@pytest.fixture(scope="module")
def method() -> SimCSE:
    texts = [f"caption {i}" for i in range(9)]
    return together(SimCSE(TransformerText.tiny(texts, layers=1, dim=16, heads=2, ffn=16)))


def test_both_captions_of_a_picture_are_in_one_batch_and_pictures_are_drawn_anew(method: SimCSE) -> None:
    first, second = (method.order(1000, BATCH, 0, epoch) for epoch in (0, 1))
    for order in (first, second):
        whole = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        assert all((np.bincount(rows // 2)[rows // 2] == 2).all() for rows in whole)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, method.order(1000, BATCH, 0, 0))


def test_the_mask_of_pairs_is_that_of_the_rows(method: SimCSE) -> None:
    table = Table.from_columns({"text": [f"picture {i // 2} caption {i}" for i in range(512)]})
    found = list(batches(method, table, 3, 4))
    assert len(found) == 4
    same = same_picture()
    assert int(same.sum()) == BATCH
    assert not bool(same.diagonal().any())
    assert bool((same == same.T).all())
    rows = torch.from_numpy(method.order(512, BATCH, 3, 0)[:BATCH].copy()) // 2
    assert torch.equal(same, (rows[:, None] == rows[None, :]).fill_diagonal_(False))
