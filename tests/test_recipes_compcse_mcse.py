"""What the experiments of CompCSE and MCSE measure, on spaces of which the figures are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nearfar.encoders.given import GivenVectors
from nearfar.encoders.text import TransformerText
from nearfar.methods.sentence.mcse import MCSE
from nearfar.recipes.compcse import composition
from nearfar.recipes.mcse import _mixture, agreement, grounding

TEXTS = [
    "red one, and then two",
    "blue one, and then six",
    "a green sun, but no moon",
    "grey sky, with white sea",
]


def space_of(vectors: dict[str, list[float]]) -> Any:
    """A space that knows the unit vectors of some texts."""

    def encode(texts: list[str]) -> np.ndarray:
        rows = np.array([vectors[text] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return SimpleNamespace(encode=encode)


def test_composition_is_the_cosine_with_the_mean_of_the_parts() -> None:
    vectors = {
        "ab cd, ef gh": [1.0, 0.0, 0.0],
        "ab cd,": [1.0, 1.0, 0.0],
        "ef gh": [1.0, -1.0, 0.0],
        "ij kl, mn op": [0.0, 0.0, 1.0],
        "ij kl,": [0.0, 0.0, 1.0],
        "mn op": [0.6, 0.8, 0.0],
    }
    found = composition(space_of(vectors), ["ab cd, ef gh", "ij kl, mn op"])
    half = math.sqrt(0.5)
    assert found["composition"] == pytest.approx((1 + half) / 2)
    assert found["composition of others"] == pytest.approx((0 + 0.6 * half) / 2)
    assert found["found by its parts"] == 1.0


def test_agreement_is_one_where_texts_lie_as_pictures_do() -> None:
    pictures = np.random.default_rng(0).normal(size=(8, 5))
    emoji = pd.DataFrame({"text": list("abcdefgh"), "twitter": list(pictures + 3.0)})
    centred = pictures - pictures.mean(0)
    alike = space_of({text: row.tolist() for text, row in zip("abcdefgh", centred, strict=True)})
    other = space_of({text: row.tolist() for text, row in zip("abcdefgh", centred[::-1], strict=True)})
    assert agreement(alike, emoji)["agreement with pictures"] == pytest.approx(1.0)
    assert agreement(other, emoji)["agreement with pictures"] < 0.6


def test_grounding_compares_the_heads_that_training_compared() -> None:
    torch.manual_seed(0)
    encoder = TransformerText.tiny(TEXTS, layers=1, dim=8, heads=2, ffn=8, max_length=64)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.mul_(40)  # texts differ also without training
    method = MCSE(encoder, GivenVectors(8), dim=6)
    method.picture_head = method.sentence_head  # the states of a text as its picture: always found
    texts = [f"{text} {word} {word}" for text in TEXTS for word in ("red", "moon", "sea", "six", "sky")]
    states = encoder.eval()(encoder.prepare(texts)).pooled.detach().numpy()
    emoji = pd.DataFrame({"text": texts, "twitter": list(states), "google": list(states[::-1])})
    found = grounding(method, emoji, emoji)
    assert found["recall@10 unseen emoji"] == 1.0
    assert found["recall@10 another artist"] < 1.0


def test_the_mixture_has_pictures_in_the_rows_of_emoji_alone() -> None:
    emoji = pd.DataFrame({"text": ["sun: star", "cat: pet"], "twitter": [np.ones(3), np.zeros(3)]})
    table = _mixture(["one sentence", "another sentence", "a third"], emoji, emoji["twitter"])
    assert table.present("image").tolist() == [False, False, False, True, True]
    assert table.column("text")[3:] == ["sun: star", "cat: pet"]
