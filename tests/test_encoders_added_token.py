"""A token that is added: nothing else changes, and a head over the vocabulary knows it too."""

from __future__ import annotations

from pathlib import Path

import torch

from nearfar.encoders import load_encoder
from nearfar.encoders.added_token import add_token
from nearfar.encoders.masked import MaskedText

TEXTS = ["snow fell on the old town", "rain"]


def test_a_masked_model_gets_a_row_and_a_logit_and_keeps_all_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = MaskedText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16).eval()
    torch.nn.init.normal_(encoder.head.bias)
    with torch.no_grad():
        states = encoder(encoder.prepare(TEXTS)).tokens
        logits, words = encoder.predict(states), encoder.model.get_input_embeddings().weight.clone()
        number = add_token(encoder, "[DEL]")
        assert number == len(words) == len(encoder.tokenizer) - 1
        assert torch.equal(encoder(encoder.prepare(TEXTS)).tokens, states)
        torch.testing.assert_close(encoder.predict(states)[..., :number], logits)
        torch.testing.assert_close(encoder.model.get_input_embeddings().weight[number], words.mean(dim=0))
    assert encoder.predict(states).shape[-1] == len(encoder.head.bias) == number + 1
    assert add_token(encoder, "[DEL]") == number
    encoder.save(tmp_path / "encoder")
    again = load_encoder(tmp_path / "encoder")
    assert isinstance(again, MaskedText)
    assert add_token(again, "[DEL]") == number
    torch.testing.assert_close(again.predict(states), encoder.predict(states))


def test_one_of_its_own_special_tokens_is_not_added_twice() -> None:
    encoder = MaskedText.tiny(TEXTS, layers=1, dim=32, heads=2, ffn=48, max_length=16)
    size = len(encoder.tokenizer)
    assert add_token(encoder, "[MASK]") == encoder.tokenizer.mask_token_id
    assert len(encoder.tokenizer) == size
