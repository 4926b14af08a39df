"""Romanised texts: what stays, what is written anew, what vanishes."""

from __future__ import annotations

import sys

import pytest

from nearfar.errors import MissingExtra
from nearfar.views import transliteration
from nearfar.views.transliteration import romanise, vanishes


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("Москва", "Moskva"),
        ("Ελλάδα", "Ellada"),
        ("नमस्ते", "namaste"),
        ("東京", "dongjing"),
        ("서울", "seoul"),
        ("Łódź", "Lodz"),
        ("東京 Tokyo Токио", "dongjing Tokyo Tokio"),
        ("plain text, it stays!", "plain text, it stays!"),
    ],
)
def test_every_script_becomes_latin(text: str, latin: str) -> None:
    assert romanise(text) == latin


@pytest.mark.parametrize("text", ["ь", "ー", "\ufe0f", "\u200d\u0301"])
def test_what_is_not_spoken_leaves_nothing(text: str) -> None:
    assert romanise(text) == ""
    assert vanishes(text)
    assert not vanishes(f"{text}!")
    assert not vanishes(f"{text} да")


def test_texts_in_ascii_are_told_without_being_romanised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transliteration, "romanise", lambda text: pytest.fail("not needed"))
    assert not vanishes("rain")


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    transliteration._uroman.cache_clear()
    monkeypatch.setitem(sys.modules, "uroman", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[scripts\]"):
        romanise("дождь")
