"""Encoders made of encoders: features side by side, and texts without their emojis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import nearfar.errors
from nearfar.data.kinds import Text
from nearfar.encoders import load_encoder, make_encoder
from nearfar.encoders.composed import ConcatenatedText, WithoutEmojis
from nearfar.encoders.recurrent import CharacterText, RecurrentText
from nearfar.encoders.text import TransformerText
from nearfar.encoders.words import BagOfWords
from nearfar.errors import ArgumentError, MissingExtra

TEXTS = ["rain fell", "snow on the town", "fog"]


def recurrent(seed: int) -> RecurrentText:
    torch.manual_seed(seed)
    return RecurrentText.fitted(TEXTS, embedding=6, dim=8)


def test_parts_stand_side_by_side_at_length_one() -> None:
    one, two = recurrent(0), recurrent(1)
    joined = ConcatenatedText(one, two)
    inputs = joined.prepare(TEXTS)
    found = joined(inputs)
    expected = [functional.normalize(part(inputs).pooled, dim=1) for part in (one, two)]
    torch.testing.assert_close(found.pooled, torch.cat(expected, dim=1))
    assert found.pooled.shape == (3, joined.dim) == (3, 16)
    assert found.tokens.shape == (3, 4, 16)
    torch.testing.assert_close(found.pooled.norm(dim=1), torch.full((3,), 2.0).sqrt())


def test_parts_are_saved_each_with_its_own_weights(tmp_path: Path) -> None:
    joined = ConcatenatedText(recurrent(0), recurrent(1)).eval()
    joined.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.settings() == joined.settings()
    assert torch.equal(again(again.prepare(TEXTS)).pooled, joined(joined.prepare(TEXTS)).pooled)
    assert not torch.equal(again.parts[0].embedding.weight, again.parts[1].embedding.weight)


def test_it_counts_as_trained_if_all_its_parts_are() -> None:
    one, two = recurrent(0), recurrent(1)
    one.pretrained = True
    assert not ConcatenatedText(one, two).pretrained
    assert ConcatenatedText(one, one).pretrained


@pytest.mark.parametrize("kind", [CharacterText, TransformerText])
def test_an_encoder_never_sees_an_emoji(kind: type, tmp_path: Path) -> None:
    plain, marked = ["so good", "no way"], ["so 😂😂 good👍🏽", "❤️ no way 🇧🇷"]
    torch.manual_seed(0)
    inner = (
        CharacterText.fitted([*plain, *marked])
        if kind is CharacterText
        else TransformerText.tiny(plain + marked)
    )
    encoder = WithoutEmojis(inner).eval()
    assert encoder.dim == inner.dim
    expected = inner(inner.prepare(plain)).pooled
    torch.testing.assert_close(encoder(encoder.prepare(marked)).pooled, expected)
    for positions, inputs in encoder.batches(marked, 1):
        torch.testing.assert_close(encoder(inputs).pooled, expected[list(positions)])
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(again.prepare(marked)).pooled, encoder(encoder.prepare(marked)).pooled)


@pytest.mark.parametrize("kind", ["recurrent", "joined", "without emojis"])
def test_a_saved_encoder_keeps_as_many_tokens_as_are_asked_for(kind: str, tmp_path: Path) -> None:
    parts = (recurrent(0), recurrent(1))
    made = {
        "recurrent": parts[0],
        "joined": ConcatenatedText(*parts),
        "without emojis": WithoutEmojis(parts[0]),
    }
    made[kind].save(tmp_path)
    assert make_encoder(str(tmp_path), Text, []).prepare(TEXTS)["ids"].shape[1] == 4
    short = make_encoder(str(tmp_path), Text, [], max_length=2)
    assert short.prepare(TEXTS)["ids"].shape[1] == 2
    told = short.settings()
    assert {part["max_length"] for part in told.get("parts", [told])} == {2}


def test_an_encoder_that_cuts_nothing_refuses_a_length(tmp_path: Path) -> None:
    bag = BagOfWords.fitted(TEXTS)
    (tmp_path / "bag").mkdir(), (tmp_path / "composed").mkdir()
    bag.save(tmp_path / "bag")
    WithoutEmojis(bag).save(tmp_path / "composed")
    for folder in (tmp_path / "bag", tmp_path / "composed"):
        with pytest.raises(ArgumentError, match="max_length=2: BagOfWords"):
            make_encoder(str(folder), Text, [], max_length=2)


def test_a_text_of_nothing_but_emojis_still_has_a_vector() -> None:
    encoder = WithoutEmojis(CharacterText.fitted(TEXTS))
    assert bool(encoder(encoder.prepare(["😂😂", "fog"])).pooled.isfinite().all())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(nearfar.errors.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"nearfar\[emoji\]"):
        WithoutEmojis(recurrent(0))
