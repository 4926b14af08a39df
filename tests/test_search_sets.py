"""Set queries: the language, and the operations it stands for."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES
from nearfar.search.index import Index
from nearfar.search.set_query import SetQuery, parse_set_query
from nearfar.search.sets import difference, intersection, series, series_of_index, set_similarity
from nearfar.search.sparse import SparseIndex

NAMES = ("cats", "dogs", "Birds")
RANDOM = np.random.default_rng(0)
POOL = RANDOM.standard_normal((40, 6)).astype(np.float32)
NEAR = RANDOM.standard_normal((3, 6)).astype(np.float32)
FAR = RANDOM.standard_normal((5, 6)).astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# -- operations ------------------------------------------------------------------------------------


def test_similarity_is_the_mean_of_cosines_and_no_cosine_with_the_mean() -> None:
    wanted = (unit(POOL) @ unit(NEAR).T).mean(1)
    got = set_similarity(POOL, NEAR)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    np.testing.assert_allclose(got, unit(POOL) @ unit(NEAR).mean(0), atol=1e-6)
    assert np.abs(got - unit(POOL) @ unit(unit(NEAR).mean(0)[None])[0]).max() > 0.05
    np.testing.assert_allclose(set_similarity(7 * POOL, 0.1 * NEAR), got, atol=1e-6)


@pytest.mark.parametrize("geometry", [name for name in SCORES if name != "cosine"])
def test_similarity_is_the_mean_score_of_other_geometries(geometry: str) -> None:
    import torch

    wanted = SCORES[geometry](torch.tensor(POOL), torch.tensor(NEAR)).mean(1).numpy()
    np.testing.assert_allclose(set_similarity(POOL, NEAR, geometry), wanted, atol=1e-4)


def test_intersection_and_difference_are_orders_of_the_pool_and_opposite() -> None:
    scores, rows = intersection(POOL, NEAR)
    similarity = set_similarity(POOL, NEAR)
    np.testing.assert_array_equal(rows, np.argsort(-similarity, kind="stable"))
    np.testing.assert_allclose(scores, similarity[rows], atol=1e-6)
    _, least = difference(POOL, NEAR)
    np.testing.assert_array_equal(least, rows[::-1])
    assert intersection(POOL, NEAR, 4)[1].tolist() == rows[:4].tolist()
    assert len(intersection(POOL, NEAR, 99)[1]) == len(POOL)


def test_a_series_is_a_sum_in_which_order_does_not_matter() -> None:
    other = POOL[5:9]
    scores, rows = series(POOL, [NEAR, other], [FAR])
    wanted = set_similarity(POOL, NEAR) + set_similarity(POOL, other) - set_similarity(POOL, FAR)
    np.testing.assert_array_equal(rows, np.argsort(-wanted, kind="stable"))
    np.testing.assert_allclose(scores, wanted[rows], atol=1e-6)
    np.testing.assert_array_equal(series(POOL, [other, NEAR], [FAR])[1], rows)


def test_the_pool_and_a_set_play_different_parts() -> None:
    assert len(intersection(POOL, NEAR)[1]) == len(POOL) != len(intersection(NEAR, POOL)[1])


@pytest.mark.parametrize("geometry", list(SCORES))
def test_an_index_gives_the_same_answers(geometry: str) -> None:
    scores, rows = series(POOL, [NEAR], [FAR], 7, geometry)
    got = series_of_index(Index(POOL, geometry), [NEAR], [FAR], 7)
    np.testing.assert_array_equal(got[1], rows)
    np.testing.assert_allclose(got[0], scores, atol=1e-4)


def test_inverted_lists_give_the_same_answers() -> None:
    codes = np.maximum(POOL, 0) * (POOL > 0.8)
    codes[codes.sum(1) == 0, 0] = 1
    scores, rows = series(codes, [codes[:3]], [codes[5:7]], 5)
    got = series_of_index(SparseIndex(codes), [codes[:3]], [codes[5:7]], 5)
    np.testing.assert_allclose(got[0], scores, atol=1e-5)
    np.testing.assert_array_equal(got[1], rows)


def test_what_operations_refuse() -> None:
    with pytest.raises(ArgumentError, match="an operation needs a set"):
        series(POOL)
    with pytest.raises(ArgumentError, match="k must be at least 1"):
        intersection(POOL, NEAR, 0)
    with pytest.raises(ArgumentError, match=r"as wide as the set's \(3\)"):
        intersection(POOL, NEAR[:, :3])
    with pytest.raises(ArgumentError, match="the examples of a set"):
        intersection(POOL, np.zeros((2, 6)))
    with pytest.raises(ArgumentError, match="cancel"):
        series_of_index(Index(POOL), [NEAR], [NEAR], 3)


# -- the language ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "near", "without"),
    [
        ("near cats", ("cats",), ()),
        ("cats", ("cats",), ()),
        ("NEAR cats AND dogs", ("cats", "dogs"), ()),
        ("cats  without dogs without Birds", ("cats",), ("dogs", "Birds")),
        ("without dogs", (), ("dogs",)),
        ("near cats and dogs without Birds", ("cats", "dogs"), ("Birds",)),
    ],
)
def test_queries(query: str, near: tuple[str, ...], without: tuple[str, ...]) -> None:
    parsed = parse_set_query(query, NAMES)
    assert parsed == SetQuery(near, without)
    assert parse_set_query(str(parsed), NAMES) == parsed


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("  ", "character 1: it is empty"),
        ("near", "character 1: 'near' stands at the end"),
        ("cats and", "character 6: 'and' stands at the end"),
        ("and cats", "character 1: nothing stands before 'and'"),
        ("cats dogs", "character 6: 'and' or 'without' must stand before 'dogs'"),
        ("cats and cat", "character 10: there is no set 'cat' (did you mean 'cats'?)"),
        ("birds", "character 1: there is no set 'birds' (did you mean 'Birds'?)"),
        ("cats near dogs", "character 6: 'near' can only begin a query"),
        ("cats without dogs and Birds", "character 19: after 'without', 'and' could mean either"),
        ("cats and (dogs)", "character 10: there are no parentheses"),
        ("cats and without dogs", "character 10: the name of a set must follow 'and', not 'without'"),
        ("cats and cats", "character 10: the set 'cats' is named twice"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(query: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        parse_set_query(query, NAMES)


@pytest.mark.parametrize("name", ["", "two words", "and", "NEAR", "a(b)"])
def test_names_that_no_query_could_hold(name: str) -> None:
    with pytest.raises(ArgumentError, match="a set cannot be called"):
        parse_set_query("cats", [*NAMES, name])
