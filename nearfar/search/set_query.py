"""The language of set queries: `near A and B without C`.

    query := [near] NAME { and NAME } { without NAME }
           | without NAME { without NAME }

Names stand for sets of examples; the pool, a table, is not named. A query means the series of operations of
`nearfar.search.sets.series`, a sum in which order does not matter. So there are no parentheses.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn

from nearfar.errors import ArgumentError

WORDS = ("near", "and", "without")
"""The words of the language, in upper or lower case; no set can be called so."""


@dataclass(frozen=True)
class SetQuery:
    """Names of the sets to be near to, and of those to be far from; at least one in all."""

    near: tuple[str, ...]
    without: tuple[str, ...]

    def __str__(self) -> str:
        near = "near " + " and ".join(self.near) if self.near else ""
        return " ".join([*([near] if near else []), *(f"without {name}" for name in self.without)])


def check_set_names(names: Collection[str]) -> None:
    """Refuse names that a query could not hold.

    Raises:
        ArgumentError: a name is empty, more than one word, has a parenthesis, or is a word of the language.
    """
    for name in names:
        if not re.fullmatch(r"[^\s()]+", name) or name.lower() in WORDS:
            raise ArgumentError(
                f"a set cannot be called {name!r}: its name must be one word without parentheses, and none of "
                f"{', '.join(WORDS)}"
            )


def parse_set_query(query: str, names: Collection[str]) -> SetQuery:
    """Read a query.

    Args:
        query: a sentence of the language.
        names: of the sets there are.

    Raises:
        ArgumentError: says at which character of the query (from 1) what is wrong.
    """
    check_set_names(names)
    words = [(match.start() + 1, match[0]) for match in re.finditer(r"[()]|[^\s()]+", query)]
    if not words:
        _refuse(query, 1, "it is empty; write it like: near A and B without C")
    if words[0][1].lower() not in WORDS:
        words.insert(0, (words[0][0], "near"))
    found: dict[str, list[str]] = {"near": [], "without": []}
    for i in range(0, len(words), 2):
        position, word = words[i]
        _check_operator(query, position, word, first=i == 0, after_without=bool(found["without"]))
        if i + 1 == len(words):
            _refuse(query, position, f"{word!r} stands at the end; the name of a set must follow")
        at, name = words[i + 1]
        if name in "()":
            _refuse(query, at, NO_PARENTHESES)
        if name.lower() in WORDS:
            _refuse(query, at, f"the name of a set must follow {word!r}, not {name!r}")
        _check_name(query, at, name, names)
        if name in found["near"] + found["without"]:
            _refuse(query, at, f"the set {name!r} is named twice")
        found["without" if word.lower() == "without" else "near"].append(name)
    return SetQuery(tuple(found["near"]), tuple(found["without"]))


NO_PARENTHESES = "there are no parentheses: a query is a sum, in which order does not matter"


def _check_operator(query: str, position: int, word: str, *, first: bool, after_without: bool) -> None:
    operator = word.lower()
    if word in "()":
        _refuse(query, position, NO_PARENTHESES)
    if operator not in WORDS:
        _refuse(query, position, f"'and' or 'without' must stand before {word!r}")
    if first and operator == "and":
        _refuse(query, position, f"nothing stands before {word!r}; begin with the name of a set")
    if not first and operator == "near":
        _refuse(query, position, f"{word!r} can only begin a query; use 'and'")
    if operator == "and" and after_without:
        _refuse(
            query,
            position,
            "after 'without', 'and' could mean either; put the sets to be near to first, and write 'without' "
            "before each of the others",
        )


def _check_name(query: str, position: int, name: str, names: Collection[str]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, names, 1) or [
        known for known in names if known.lower() == name.lower()
    ]
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    known = ", ".join(names) or "none"
    _refuse(query, position, f"there is no set {name!r}{hint}; the sets are: {known}")


def _refuse(query: str, position: int, why: str) -> NoReturn:
    raise ArgumentError(f"set query {query!r}, character {position}: {why}")
