"""What users' texts are like: every sentence method works on them, or names the row that it cannot take."""

from __future__ import annotations

import inspect
import re
from typing import get_type_hints

import numpy as np
import pytest
import torch
from test_methods_catalogue import cells, shapes_of_table

from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.encoders.masked import MaskedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import NearfarError, TableError
from nearfar.methods import catalogue, entry, method_class
from nearfar.verbs.fit import fit

METHODS = sorted(name for name, found in catalogue().items() if found.family == "sentence")
PLAIN = [
    f"the {word} over the old town" for word in ("rain", "snow", "storm", "sun", "fog", "hail", "wind", "ice")
]
REFUSED = {
    "a lone surrogate": [*PLAIN[:4], "half a \ud83d sign", *PLAIN[5:]],
    "an empty text": [*PLAIN[:4], " \t ", *PLAIN[5:]],
}
"""No table can hold them: the row must be named before any method sees it."""
TAKEN = {
    "10,000 tokens": [*PLAIN[:4], "rain " * 10_000, "x" * 10_000, *PLAIN[6:]],
    "one token": ["rain", "snow", "storm", "sun", "fog", "hail", "wind", "ice"],
    "stop words": ["the", "of the", "and", "to be or", "it is", "a", "on in at", "not"],
    "duplicates": PLAIN[:1] * 8,
    "empty after cleaning": [*PLAIN[:4], "\u200b\ufeff", "\x00\u200d", "\ufe0f", PLAIN[7]],
    "mixed scripts": [*PLAIN[:2], "дождь над городом", "雨 rain", "बारिश और rain", "مطر", "ь", "😀 🌧️"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small masked language model that knows the scripts of the tables."""
    torch.manual_seed(0)
    texts = [text.replace("\ud83d", "") for made in (REFUSED | TAKEN).values() for text in made]
    encoder = MaskedText.tiny(texts, layers=3, dim=16, heads=2, ffn=24, max_length=24)
    encoder.head_is_trained = True  # methods that need such a head shall run
    place = tmp_path_factory.mktemp("encoder")
    encoder.save(place)
    return str(place)


def encoders(name: str, folder: str) -> dict[str, str]:
    """The small model where a method takes a text encoder of its kind; its own small one elsewhere."""
    hints = get_type_hints(method_class(name).__init__)
    fits = {
        argument: inspect.isclass(hints[argument]) and issubclass(hints[argument], TransformerText)
        for argument in entry(name).encoders
    }
    return {argument: folder if fit else "tiny" for argument, fit in fits.items()}


def fitted(name: str, texts: list[str], folder: str) -> np.ndarray:
    """Train on a table whose columns of text hold these, each in another order, and embed them: [8, d]."""
    shape = next(shapes_of_table(name))
    written = [role for role, kind in shape.items() if kind is Text]
    columns = {
        role: [texts[(i + written.index(role)) % len(texts)] for i in range(len(texts))]
        if role in written
        else cells(role, kind, len(texts))
        for role, kind in shape.items()
    }
    table = Table.from_columns(columns, shape)
    how = {"steps": 2, "batch_size": 4, "holdout_share": 0.0, "on_collapse": "warn"}
    space = fit(name, table, encoder=encoders(name, folder), **how)
    return space.encode(texts, space.modality_for(written[0], texts[0]))


@pytest.mark.parametrize("texts", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("name", METHODS)
def test_what_no_table_can_hold_is_refused_by_row(name: str, texts: list[str], folder: str) -> None:
    with pytest.raises(TableError, match=r"row 5, column 'text'"):
        fitted(name, texts, folder)


@pytest.mark.parametrize("texts", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_unusual_is_taken_or_refused_with_the_row_or_the_column_that_helps(
    name: str, texts: list[str], folder: str
) -> None:
    try:
        z = fitted(name, texts, folder)
    except NearfarError as error:
        refused = str(error)
    else:
        assert len(z) == len(texts)
        assert np.isfinite(z).all()
        return
    assert re.search(r"\brow \d|--column", refused), refused
