"""What the experiment of TransliCo counts: scripts, translations across them, recall in both directions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nearfar.recipes.tatoeba import _pairs, script_of
from nearfar.recipes.translico import both_ways


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Ja to znam, 123!", "LATIN"),
        ("Как дела в IBM?", "CYRILLIC"),
        ("उसने कहा।", "DEVANAGARI"),
        ("他是誰？", "CJK"),
        ("すごいですね", "HIRAGANA"),
        ("12 + 3 = ?", "NONE"),
    ],
)
def test_a_text_is_of_the_script_of_most_letters(text: str, script: str) -> None:
    assert script_of(text) == script


def test_translations_meet_through_english_across_scripts_only() -> None:
    rows = [
        ("srp", "CYRILLIC", "А", "a"),
        ("srp", "LATIN", "A", "a"),
        ("hrv", "LATIN", "A2", "a"),
        ("mkd", "CYRILLIC", "Б", "b"),
        ("slv", "LATIN", "C", "c"),
        ("deu", "LATIN", "B", "b"),
    ]
    frame = pd.DataFrame(rows, columns=["lang", "script", "text", "english"])
    found = _pairs(
        frame, (frozenset({"srp", "mkd"}), "CYRILLIC"), (frozenset({"srp", "hrv", "slv"}), "LATIN")
    )
    assert found.to_numpy().tolist() == [["a", "А", "A"]]


def test_recall_is_the_mean_of_both_directions() -> None:
    one = np.eye(12)
    other = one.copy()
    assert both_ways(one, other) == 1
    other[0] = -one[0]  # found by nobody, and finds nobody
    assert both_ways(one, other) == pytest.approx(11 / 12)
