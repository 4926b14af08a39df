"""Mined negatives: the best hits, evenly drawn, and never what is known to be near."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nearfar.batching import mining
from nearfar.batching.mining import Corpus, choose, mine
from nearfar.data.kinds import Text
from nearfar.data.table import Table
from nearfar.errors import TableError
from nearfar.search import BM25, Index

TEXTS = ["a", "b", "a", "c", "d", "r", "e"]
TARGETS = ["p", "q", "r", "q", "s", "t", "u"]
"""Rows 1 and 3 ask for p and r alike; rows 2 and 4 have one target; the query of row 6 is a target."""


def table(texts: list[str] = TEXTS, targets: list[str] = TARGETS) -> Table:
    return Table.from_columns({"text": texts, "positive": targets}, {"text": Text, "positive": Text})


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.of(table(), "text", "positive")


class Everything:
    """A search that finds all of M targets, or the first k, for every query."""

    def __init__(self, size: int) -> None:
        self.size = size

    def search(self, queries: Any, k: int, /) -> tuple[np.ndarray, np.ndarray]:
        found = np.tile(np.arange(min(k, self.size)), (len(queries), 1))
        return -found.astype(np.float32), found


def drawn(corpus: Corpus, k: int, n: int, seed: int = 0) -> np.ndarray:
    return mine(
        Everything(len(corpus)), corpus.table.column("text"), corpus, k, n, np.random.default_rng(seed)
    )


def test_equal_targets_are_one_and_all_answers_to_a_text_are_known(corpus: Corpus) -> None:
    assert len(corpus) == 6
    assert [TARGETS[row] for row in corpus.rows] == ["p", "q", "r", "s", "t", "u"]
    assert corpus.rows[1] == 1, "the first row that holds it"
    rows = np.arange(7)
    near = corpus.near(np.tile(np.arange(6), (7, 1)), rows)
    known = {0: "pr", 1: "q", 2: "pr", 3: "q", 4: "s", 5: "tr", 6: "u"}
    for row in rows:
        assert {"pqrstu"[number] for number in np.flatnonzero(near[row])} == set(known[row])
    assert not corpus.near(np.full((7, 1), -1), rows).any()


def test_what_is_near_is_never_mined_and_all_else_evenly_where_all_is_searched(corpus: Corpus) -> None:
    """With K = M every other target comes as often: each count is within 4 standard deviations."""
    rounds, n = 2000, 2
    counts = np.zeros((7, 7), dtype=int)
    for seed in range(rounds):
        mined = drawn(corpus, 6, n, seed)
        assert mined.shape == (7, n)
        assert (mined[:, 0] != mined[:, 1]).all(), "no negative comes twice"
        np.add.at(counts, (np.repeat(np.arange(7), n), mined.ravel()), 1)
    for row, others in enumerate(["qstu", "prstu", "qstu", "prstu", "pqrtu", "pqsu", "pqrst"]):
        allowed = [TARGETS.index(target) for target in others]
        assert counts[row].sum() == counts[row, allowed].sum() == rounds * n
        share = n / len(others)
        within = 4 * np.sqrt(rounds * share * (1 - share))
        assert (np.abs(counts[row, allowed] - rounds * share) < within).all()


def test_only_the_best_hits_are_drawn_of(corpus: Corpus) -> None:
    mined = np.stack([drawn(corpus, 3, 2, seed) for seed in range(50)])
    assert {TARGETS[row] for row in mined[:, 4].ravel()} == set("pqr"), "s is no hit"
    whole = drawn(corpus, 3, 3)
    assert {TARGETS[row] for row in whole[4]} == set("pqr"), "n = K keeps them all"


def test_what_is_missing_stands_at_the_end(corpus: Corpus) -> None:
    mined = drawn(corpus, 3, 3)
    left = [[TARGETS[number] if number >= 0 else "" for number in row] for row in mined]
    assert [row.count("") for row in left] == [2, 1, 2, 1, 0, 1, 0]
    for row in left:
        assert row == [*filter(None, row), *[""] * row.count("")]
    found = np.array([[0, -1, 3, -1]])
    assert choose(found, corpus, np.array([1]), 4, np.random.default_rng(0)).tolist()[0][2:] == [-1, -1]
    assert drawn(corpus, 600, 200).shape == (7, 6), "no more than there are"


def test_the_draws_depend_on_the_generator_alone(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    one = drawn(corpus, 5, 2, seed=1)
    assert (drawn(corpus, 5, 2, seed=1) == one).all()
    assert (drawn(corpus, 5, 2, seed=2) != one).any()
    monkeypatch.setattr(mining, "_BLOCK", 3)
    assert (drawn(corpus, 5, 2, seed=1) == one).all(), "blocks of queries are for memory only"


def test_vectors_and_words_are_searched_alike() -> None:
    data = table(
        ["red fox", "blue whale", "green tree"],
        ["the red fox ran", "a blue whale swims", "trees are green, foxes red"],
    )
    corpus = Corpus.of(data, "text", "positive")
    random = np.random.default_rng(0)
    words = mine(BM25(data.column("positive")), data.column("text"), corpus, 2, 1, random)
    assert words[0].tolist() == [2], "the fox's next best text"
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    queries = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = mine(Index(vectors, "dot"), queries, corpus, 2, 1, random)
    assert found.tolist() == [[2], [2], [1]]


def test_a_row_without_negatives_is_named(corpus: Corpus) -> None:
    with pytest.raises(TableError, match=r"of the 1 targets found for row 1 none is a negative.*top_k"):
        drawn(corpus, 1, 1)
    alike = Corpus.of(table(["a", "b", "c"], ["x", "x", "x"]), "text", "positive")
    with pytest.raises(TableError, match=r"row 1 .*\(1 different targets in all\).*other targets"):
        drawn(alike, 5, 1)
    later = Corpus.of(table().select([5, 1, 3]), "text", "positive")
    with pytest.raises(TableError, match="row 2 none"):
        choose(np.array([[1], [1]]), later, np.array([0, 1]), 1, np.random.default_rng(0))
