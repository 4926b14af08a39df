"""Encoders made of encoders: features side by side, and texts without their emojis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import nearfar.errors
from nearfar.encoders import load_encoder
from nearfar.encoders.composed import ConcatenatedText, WithoutEmojis
from nearfar.encoders.recurrent import CharacterText, RecurrentText
from nearfar.encoders.text import TransformerText
from nearfar.errors import MissingExtra

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


def test_a_text_of_nothing_but_emojis_still_has_a_vector() -> None:
    encoder = WithoutEmojis(CharacterText.fitted(TEXTS))
    assert bool(encoder(encoder.prepare(["😂😂", "fog"])).pooled.isfinite().all())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(nearfar.errors.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"nearfar\[emoji\]"):
        WithoutEmojis(recurrent(0))
