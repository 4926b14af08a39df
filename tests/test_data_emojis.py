"""Emojis in texts: which are one, and that nothing of them stays in the text."""

from __future__ import annotations

import pytest

from nearfar.data.emojis import emojis_of, without_emojis


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain text: 3 # * ok", []),
        ("so 😂 funny 😂😂", ["😂"]),
        ("❤ and ❤️ and ❤\ufe0e", ["❤"]),
        ("👍🏽👍🏿👍", ["👍"]),
        ("👩🏽‍🚀 not 👩", ["👩‍🚀", "👩"]),
        ("🇧🇷🇺🇸", ["🇧🇷", "🇺🇸"]),
        ("😍 then 😂", ["😍", "😂"]),
        ("مطر 🌧 дождь", ["🌧"]),
    ],
)
def test_emojis_are_found_whatever_their_form(text: str, found: list[str]) -> None:
    assert emojis_of(text) == found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("My little \ufe0f \ufe0f \ufe0f @ Cafe", "My little @ Cafe"),
        ("so😂funny", "so funny"),
        ("❤️", ""),
        ("👍🏽 ok 👩🏽‍🚀", "ok"),
        ("🇧🇷 go 1️⃣", "go"),
        ("tone 🏽 alone, half 🇧 flag, joiner \u200d", "tone alone, half flag, joiner"),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿 match", "match"),
        ("two  spaces\tand a tab", "two spaces and a tab"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_nothing_of_an_emoji_stays(text: str, left: str) -> None:
    assert without_emojis(text) == left


def test_gaps_do_not_tell_how_many_there_were() -> None:
    assert without_emojis("a 😂 b") == without_emojis("a 😂😂😂 b") == without_emojis("a b")


def test_lone_surrogates_are_no_emojis() -> None:
    assert emojis_of("a \ud83d b") == []
    assert without_emojis("a \ud83d b") == "a \ud83d b"
