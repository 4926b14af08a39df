"""The experiment of CESNA: its halves share no tweet, and its figures say what they are named for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nearfar.recipes.cesna import EMOJIS, ENGLISH_TEST, MACRO, figures, split


class Telling:
    """A space in which a tweet stands where its first character says."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[float(text[0])] for text in texts], dtype=np.float32)

    def score(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return -np.abs(one[:, :1] - two[:, :1].T)


def tweets(language: str, n: int, told: bool = True) -> pd.DataFrame:
    rows = [
        {
            "text": f"{k % 3 if told else k // 3 % 4} {language} {k}",
            "label": EMOJIS[k % 3],
            "language": language,
        }
        for k in range(n)
    ]
    return pd.DataFrame(rows)


def halves(told: bool = True) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    poor = pd.concat([tweets("pt", 60, told), tweets("ar", 30, told)], ignore_index=True)
    return split(tweets("en", ENGLISH_TEST + 90, told), poor, seed=0)


def test_the_halves_share_no_tweet_and_every_emoji_is_halved() -> None:
    training, tests = halves()
    assert {name: len(frame) for name, frame in tests.items()} == {"en": ENGLISH_TEST, "pt": 30, "ar": 15}
    for name, frame in tests.items():
        assert not set(frame["text"]) & set(training["text"])
        assert set(frame["language"]) == {name}
    assert tests["pt"]["label"].value_counts().tolist() == [10, 10, 10]


def test_a_space_that_tells_emojis_is_perfect_and_one_that_does_not_is_chance() -> None:
    found = figures(Telling(), *halves())
    assert found.keys() >= {MACRO + name for name in ("en", "pt", "ar")} | {"auc, pt to en", "auc, ar to en"}
    assert set(found.values()) == {1.0}
    blind = figures(Telling(), *halves(told=False))
    assert blind["auc, pt to en"] == pytest.approx(0.5, abs=0.03)
    assert blind[MACRO + "en"] < 0.5
