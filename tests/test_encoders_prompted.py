"""Texts in a prompt: what is cut, what is pooled, and what is kept of it in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.prompted import PromptedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.space import Space

TEXTS = ["rain", "snow fell on the old town", "fog means rain in the valley", 'hail and a "cold" night.']


def plain(max_length: int = 24) -> TransformerText:
    torch.manual_seed(0)
    return TransformerText.tiny(TEXTS, layers=2, dim=16, heads=2, ffn=24, max_length=max_length)


def words(encoder: TransformerText, text: str) -> list[str]:
    ids = encoder.prepare([text])["ids"][0].tolist()
    return [str(word) for word in encoder.tokenizer.convert_ids_to_tokens(ids)]


def test_a_text_stands_inside_the_prompt_and_special_tokens_outside() -> None:
    encoder = PromptedText.around(plain())
    assert words(encoder, "rain") == ["[CLS]", '"', "rain", '"', "means", "[MASK]", ".", "[SEP]"]
    whole = encoder.tokenizer('"snow fell on the old town" means [MASK].')["input_ids"]
    assert encoder.prepare([TEXTS[1]])["ids"][0].tolist() == whole, "as if it had been written so"


@pytest.mark.parametrize("length", [7, 200, 10_000])
def test_texts_are_cut_before_they_are_wrapped(length: int) -> None:
    encoder = PromptedText.around(plain(12), '"[X]" means [MASK].')
    assert encoder.max_length == 12 - encoder.prompt.length
    found = words(encoder, "rain " * length)
    assert len(found) <= 12
    assert found[-6:] == ["rain", '"', "means", "[MASK]", ".", "[SEP]"]
    assert encoder.truncated == (length > encoder.max_length - 2)


def test_the_embedding_is_the_state_of_the_prompts_own_mask_token() -> None:
    encoder = PromptedText.around(plain()).eval()
    texts = [*TEXTS, "rain [MASK] rain [MASK]"]  # a user's mask tokens are words like others
    inputs = encoder.prepare(texts)
    found = encoder(inputs)
    for row, pooled in enumerate(found.pooled):
        places = (inputs["ids"][row] == encoder.tokenizer.mask_token_id).nonzero().flatten()
        assert len(places) == (3 if row == 4 else 1)
        assert torch.equal(pooled, found.tokens[row, places[-1]])
    alone = torch.cat([encoder(encoder.prepare([text])).pooled for text in texts])
    torch.testing.assert_close(found.pooled, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(inputs, layers=True).pooled, found.pooled, rtol=1e-4, atol=1e-5)


def test_a_sentence_of_another_text_gets_another_vector_and_the_model_is_shared() -> None:
    encoder = plain()
    prompted = PromptedText.around(encoder.eval())
    assert prompted.model is encoder.model
    assert not prompted.training
    vectors = prompted(prompted.prepare(TEXTS)).pooled.detach()
    assert float(torch.pdist(vectors).min()) > 1e-3


def test_it_is_saved_with_its_prompt(tmp_path: Path) -> None:
    encoder = PromptedText.around(plain(), "the text [X] is about [MASK] !")
    space = Space({"text": encoder})
    found = space.encode(TEXTS)
    space.save(tmp_path / "space")
    assert np.array_equal(Space.load(tmp_path / "space").encode(TEXTS), found)
    again = load_encoder(tmp_path / "space" / "text")
    assert isinstance(again, PromptedText)
    assert again.settings() == encoder.settings()
    as_start = make_encoder(str(tmp_path / "space"), Text, [])
    as_start.choose_pooling("own")
    assert np.array_equal(Space({"text": as_start}).encode(TEXTS), found)


def test_sentence_transformers_would_not_know_the_pooling_and_is_told_nothing(tmp_path: Path) -> None:
    PromptedText.around(plain()).save(tmp_path)
    assert not (tmp_path / "modules.json").exists()
    assert (
        json.loads((tmp_path / "encoder.json").read_text())["settings"]["template"] == '"[X]" means [MASK].'
    )


@pytest.mark.parametrize(
    "template", ["[X]", "means [MASK]", "[MASK] is [X]", "[X] [X] [MASK]", "[X] [MASK] [MASK]"]
)
def test_a_template_needs_a_text_and_after_it_a_mask(template: str) -> None:
    with pytest.raises(ArgumentError, match=r"\[X\] once and after it \[MASK\] once"):
        PromptedText.around(plain(), template)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no room for texts"):
        PromptedText.around(plain(8), "this is a long way to say that [X] is [MASK]")
    encoder = PromptedText.around(plain(24))
    encoder.set_max_length(24 - encoder.prompt.length)
    with pytest.raises(ArgumentError, match=f"prompt needs {encoder.prompt.length}"):
        encoder.set_max_length(24)
    with pytest.raises(ArgumentError, match="pools the mask token"):
        encoder.choose_pooling("mean")
    encoder.tokenizer.mask_token = None
    with pytest.raises(ArgumentError, match="needs a tokenizer that has one"):
        PromptedText(encoder.model, encoder.tokenizer)


def test_tokenizers_of_other_families_are_wrapped_too(tmp_path: Path) -> None:
    """Byte pairs, with a mask token of another name that takes the space before it."""
    import transformers
    from tokenizers import AddedToken, ByteLevelBPETokenizer

    pairs = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pairs.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=special, show_progress=False)
    pairs.save_model(str(tmp_path))
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(
        str(tmp_path), mask_token=AddedToken("<mask>", lstrip=True, special=True)
    )
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=66,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = PromptedText(transformers.RobertaModel(config), tokenizer, max_length=40).eval()
    whole = tokenizer('"rain" means <mask>.')["input_ids"]
    inputs = encoder.prepare(["rain", TEXTS[1]])
    assert inputs["ids"][0][inputs["mask"][0]].tolist() == whole
    found = encoder(inputs)
    place = whole.index(tokenizer.mask_token_id)
    assert torch.equal(found.pooled[0], found.tokens[0, place])
