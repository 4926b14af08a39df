"""BM25 finds words, and the parts of identifiers."""

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.search.bm25 import BM25, words

TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "def read_json(path): return json.load(open(path))",
    "class HTTPHeaderParser: pass",
    "A dog sleeps in the sun",
    "",
]


def test_words_are_whole_identifiers_and_their_parts():
    assert words("parseHTTPHeader") == ["parsehttpheader", "parse", "http", "header"]
    assert words("read_json2") == ["read_json2", "read", "json"]
    assert words("Été, naïveÉlan: the fox!") == ["été", "naïveélan", "fox"]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("quick brown fox", 0),
        ("read json", 1),
        ("parser of an http header", 2),
        ("sleeps in the sun", 3),
    ],
)
def test_the_text_with_the_words_comes_first(query, best):
    scores, ids = BM25(TEXTS).search([query], 5)
    assert ids[0, 0] == best
    assert scores[0, 0] > scores[0, 1]
    assert (np.diff(scores) <= 0).all()


def test_a_rarer_word_counts_more_and_repetition_saturates():
    found = BM25(["dog cat", "dog emu", "dog dog"]).search(["dog emu"], 3)[1]
    assert found[0, 0] == 1
    once, twice, often = (
        BM25([" ".join(["emu"] * n + ["x1"] * (9 - n)), "yy zz"]).search(["emu"], 1)[0] for n in (1, 2, 9)
    )
    assert once < twice < often < 9 * once


def test_scores_follow_the_formula():
    texts = ["apple pear", "apple apple plum cherry", "plum"]
    scores, ids = BM25(texts).search(["apple plum"], 3)
    lengths = np.array([2, 4, 1])
    counts = np.array([[1, 2, 0], [0, 1, 1]])
    norm = 1.5 * (1 - 0.75 + 0.75 * lengths / lengths.mean())
    weights = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # each word is in two of three texts
    # Lucene leaves out the constant factor k1 + 1.
    expected = (weights * counts / (counts + norm)).sum(axis=0)
    np.testing.assert_allclose(scores[0], expected[ids[0]], rtol=1e-5)
    assert ids[0].tolist() == np.argsort(-expected, kind="stable").tolist()


def test_unknown_words_and_wordless_texts_score_nothing_in_order():
    scores, ids = BM25(TEXTS).search(["zebra", ""], 9)
    assert scores.tolist() == [[0.0] * 5] * 2
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert BM25(["", "the"]).search(["fox"], 2)[1].tolist() == [[0, 1]]


def test_nothing_to_index_and_nothing_asked_for_are_errors():
    with pytest.raises(ArgumentError, match="at least one text"):
        BM25([])
    with pytest.raises(ArgumentError, match="k must be"):
        BM25(TEXTS).search(["fox"], 0)
