"""Rows of one batch are encoded in groups of similar length: less padding, the same features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nearfar.encoders.lengths import SLACK, near_length_groups
from nearfar.encoders.text import TransformerText

TEXTS = [
    " ".join(["word", "other", "third"][i % 3] for i in range(n))
    for n in [1] * 20 + [3] * 9 + [30] * 12 + [12]
]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=80))
def test_every_row_is_in_one_group_and_groups_save_padding(lengths: list[int]) -> None:
    groups = near_length_groups(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    computed = sum(len(group) * max(lengths[i] for i in group) for group in groups)
    assert computed <= len(lengths) * max(lengths)
    assert len(groups) == 1 or computed <= 0.9 * len(lengths) * max(lengths)


def test_equal_lengths_stay_whole() -> None:
    assert len(near_length_groups([7] * 64)) == 1
    assert len(near_length_groups([7] * 32 + [int(7 * SLACK) + 1] * 32)) == 1


@pytest.fixture(scope="module")
def encoder() -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, vocabulary=40, layers=2, dim=16, heads=2, ffn=32, dropout=0.0)


def test_features_and_gradients_are_those_of_the_whole_batch(encoder: TransformerText) -> None:
    inputs = encoder.prepare(TEXTS)
    assert len(near_length_groups(inputs["mask"].sum(1).tolist())) > 1, (
        "the case must be one of several groups"
    )
    whole = encoder._at_once(inputs["ids"], inputs["mask"], False, False)
    grouped = encoder(inputs)
    valid = inputs["mask"].unsqueeze(-1)
    torch.testing.assert_close(grouped.pooled, whole.pooled, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(grouped.tokens * valid, whole.tokens * valid, atol=1e-6, rtol=1e-5)
    assert torch.equal(grouped.mask, whole.mask)
    weights = [p for p in encoder.parameters() if p.requires_grad]
    direction = torch.randn_like(whole.pooled)
    one = torch.autograd.grad((whole.pooled * direction).sum(), weights, allow_unused=True)
    two = torch.autograd.grad((grouped.pooled * direction).sum(), weights, allow_unused=True)
    for expected, got in zip(one, two, strict=True):
        if expected is not None:
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
