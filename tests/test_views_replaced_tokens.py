"""Tokens replaced by a masked language model: where, by what, and how it is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nearfar.encoders.masked import MaskedText
from nearfar.views.token_masks import replace_tokens

TEXTS = ["rain", "snow fell on the old town", "fog in the valley", "hail and wind and a cold night"]


@pytest.fixture(scope="module")
def mlm() -> MaskedText:
    torch.manual_seed(0)
    return MaskedText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)


def replaced(mlm: MaskedText, how: str = "argmax") -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    inputs = mlm.prepare(TEXTS)
    where = inputs["mask"].clone()
    where[:, 0] = False
    ids, changed = replace_tokens(mlm, inputs, inputs["ids"], where, how)  # type: ignore[arg-type]
    return inputs, where, ids, changed


def test_every_place_asked_for_takes_the_likeliest_token_and_no_other_changes(mlm: MaskedText) -> None:
    mlm.eval()
    inputs, where, ids, changed = replaced(mlm)
    states = mlm(inputs).tokens
    assert torch.equal(ids[where], mlm.predict(states).argmax(-1)[where])
    assert torch.equal(ids[~where], inputs["ids"][~where])
    assert not ids.requires_grad
    assert torch.equal(changed, ids != inputs["ids"])
    assert changed[where].any(), "an untrained model predicts other words, though nothing was hidden"


def test_a_token_that_is_predicted_rightly_is_not_replaced(mlm: MaskedText) -> None:
    inputs = mlm.prepare(TEXTS)
    right = torch.nn.functional.one_hot(inputs["ids"][inputs["mask"]], len(mlm.head.bias)).float()
    hidden = torch.full_like(inputs["ids"], mlm.tokenizer.mask_token_id)
    knowing = pytest.MonkeyPatch()
    knowing.setattr(mlm, "predict", lambda states: right)
    ids, changed = replace_tokens(mlm, inputs, hidden, inputs["mask"])
    knowing.undo()
    assert not changed.any()
    assert torch.equal(ids, inputs["ids"])


def test_tokens_are_drawn_by_their_probability(mlm: MaskedText) -> None:
    knowing = pytest.MonkeyPatch()
    shares = torch.tensor([0.7, 0.3]).log()
    knowing.setattr(mlm, "predict", lambda states: shares.expand(len(states), 2))
    inputs = {"ids": torch.full((50, 16), 2), "mask": torch.ones(50, 16, dtype=torch.bool)}
    torch.manual_seed(0)
    drawn, _ = replace_tokens(mlm, inputs, inputs["ids"], inputs["mask"], "sample")
    likeliest, _ = replace_tokens(mlm, inputs, inputs["ids"], inputs["mask"])
    knowing.undo()
    assert float(drawn.float().mean()) == pytest.approx(0.3, abs=0.06)
    assert not likeliest.any()


def test_the_mode_of_the_model_is_left_as_it_is(mlm: MaskedText) -> None:
    mlm.train()
    replaced(mlm)
    assert mlm.training
