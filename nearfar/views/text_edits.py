"""Edits of texts in tokens of an encoder: deleting, moving, replacing, inserting, cropping, misspelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nearfar.encoders.prompted import PromptedText
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.views.lexicon import Lexicon

SPAN, SHORTEST_SPAN = 0.05, 2
"""Length of a span that is deleted or moved: a share of the text (CLEAR's), but at least so many tokens (ours: 5% of
a short sentence is less than one token, and spans of one token would be words)."""
_LETTERS = re.compile(r"[^\W\d_]{2,}")

Edit = Callable[[list[int], float, np.random.Generator, Lexicon], list[int]]
"""Tokens of a text, a rate, all randomness, what is known of tokens -> edited tokens."""


def edit_text(
    tokens: Sequence[int], recipe: Mapping[str, float], rng: np.random.Generator, lexicon: Lexicon
) -> list[int]:
    """Edit the tokens of one text by a chain of edits, each with the rate at which it changes them.

    A rate is the share of tokens that are changed: what is no whole number of them is rounded up or down at random, so
    that it is kept on average in texts of any length. At least one token is always kept. By name:

    - del-word: single tokens go; del-span: spans of `SPAN` of the text do. Each run of them leaves one [DEL].
    - delete: single tokens go without a trace.
    - reorder: pairs of spans of `SPAN` change places; swap: pairs of single tokens do; shuffle: the share of tokens
      change places at random. To an encoder that adds a vector of its place to each token, the latter is the same
      as to shuffle the places (ConSERT, ACL 2021).
    - subs: tokens become words that are used alike, where the lexicon has some; others stay.
    - insert: a word that is used like one of the text's (that word itself where the lexicon has none) is added
      somewhere.
    - crop: one span of the others is kept.
    - spelling: two neighbouring letters of a word change places.

    Wu et al. "CLEAR." arXiv 2020 (del-word, del-span, reorder, subs); Wei, Zou. "EDA." EMNLP 2019 (delete, swap,
    subs, insert).

    Args:
        tokens: without special tokens.
        recipe: name -> rate in [0, 1], applied in this order.
        rng: all randomness; the same state gives the same view.
        lexicon: of the encoder that the tokens are of.

    Raises:
        ArgumentError: an edit is unknown or its rate out of range.
    """
    check_edits(recipe)
    edited = list(tokens)
    for name, rate in recipe.items():
        if edited:
            edited = EDITS[name](edited, rate, rng, lexicon)
    return edited


def check_edits(recipe: Mapping[str, float]) -> None:
    """Refuse what `edit_text` cannot do.

    Raises:
        ArgumentError: an edit is unknown or its rate out of range; names them.
    """
    for name, rate in recipe.items():
        if name not in EDITS:
            raise ArgumentError(f"there is no edit {name!r}; there are {', '.join(EDITS)}")
        check_between(0, 1, **{f"the rate of {name}": rate})


def edit_inputs(
    encoder: TransformerText,
    inputs: Mapping[str, Tensor],
    recipe: Mapping[str, float],
    generator: torch.Generator,
    lexicon: Lexicon,
) -> dict[str, Tensor]:
    """Edit prepared texts, each for itself, by `edit_text`.

    Args:
        encoder: whose `prepare` returned the inputs.
        inputs: "ids" [B, L] and "mask" [B, L].
        recipe: name of an edit -> rate.
        generator: all randomness.
        lexicon: of the encoder.

    Returns:
        Inputs of B rows. Special tokens at both ends and the prompt of a `PromptedText` stay; a text that has grown
        over `encoder.max_length` is cut.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    prompt = encoder.prompt if isinstance(encoder, PromptedText) else None
    longest = encoder.max_length + (prompt.length if prompt else 0)
    rows = []
    for ids, mask in zip(inputs["ids"], inputs["mask"], strict=True):
        row = ids[mask].tolist()
        if prompt:  # its tokens are no text, and what it pools is found by its place from the end
            start, stop = prompt.start + len(prompt.before), len(row) - prompt.end - len(prompt.after)
        else:
            start, stop = inner(row, lexicon.ends)
        room = longest - start - (len(row) - stop)
        middle = edit_text(row[start:stop], recipe, rng, lexicon)[:room]
        rows.append(torch.tensor(row[:start] + middle + row[stop:]))
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, True, float(encoder.tokenizer.pad_token_id or 0))
    return {"ids": padded, "mask": torch.arange(padded.shape[1]) < lengths.unsqueeze(1)}


def inner(row: Sequence[int], ends: frozenset[int]) -> tuple[int, int]:
    """Where the text itself starts and stops between special tokens at the ends of a row."""
    start, stop = 0, len(row)
    while start < stop and row[start] in ends:
        start += 1
    while stop > start and row[stop - 1] in ends:
        stop -= 1
    return start, stop


def _number(expected: float, most: int, rng: np.random.Generator) -> int:
    """A whole number that is `expected` on average, but not above `most`."""
    return max(0, min(int(expected + rng.random()), most))


def _chosen(n: int, rate: float, most: int, rng: np.random.Generator) -> list[int]:
    """Places of n, in order, that make up a share of them."""
    return sorted(rng.choice(n, _number(rate * n, most, rng), replace=False).tolist())


def _span_length(n: int) -> int:
    return max(SHORTEST_SPAN, round(SPAN * n))


def _span_starts(n: int, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where `count` spans of n places start that do not overlap, in order."""
    free = np.sort(rng.choice(n - count * (length - 1), count, replace=False))
    return free + np.arange(count) * (length - 1)


def _without(tokens: list[int], gone: set[int], deleted: int) -> list[int]:
    """Each run of what is gone becomes one `deleted`; one that stood there before is part of the run."""
    left: list[int] = []
    for place, token in enumerate(tokens):
        now = deleted if place in gone else token
        if now != deleted or not left or left[-1] != deleted:
            left.append(now)
    return left


def _del_word(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    return _without(tokens, set(_chosen(len(tokens), rate, len(tokens) - 1, rng)), lexicon.deleted)


def _del_span(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    n, length = len(tokens), _span_length(len(tokens))
    count = _number(rate * n / length, (n - 1) // length, rng)
    starts = _span_starts(n, length, count, rng)
    return _without(tokens, {int(s) + i for s in starts for i in range(length)}, lexicon.deleted)


def _delete(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    gone = set(_chosen(len(tokens), rate, len(tokens) - 1, rng))
    return [token for place, token in enumerate(tokens) if place not in gone]


def _exchanged(tokens: list[int], rate: float, rng: np.random.Generator, length: int) -> list[int]:
    """Pairs of spans of one length change places; `rate` is the share of tokens that are in one of them."""
    n, moved = len(tokens), list(tokens)
    pairs = _number(rate * n / (2 * length), n // (2 * length), rng)
    starts = rng.permutation(_span_starts(n, length, 2 * pairs, rng)).tolist()
    for a, b in zip(starts[:pairs], starts[pairs:], strict=True):
        moved[a : a + length], moved[b : b + length] = tokens[b : b + length], tokens[a : a + length]
    return moved


def _reorder(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    return _exchanged(tokens, rate, rng, _span_length(len(tokens)))


def _swap(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    return _exchanged(tokens, rate, rng, 1)


def _shuffle(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    places, shuffled = _chosen(len(tokens), rate, len(tokens), rng), list(tokens)
    for place, other in zip(places, rng.permutation(places).tolist(), strict=True):
        shuffled[place] = tokens[other]
    return shuffled


def _subs(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    replaced = list(tokens)
    for place in _chosen(len(tokens), rate, len(tokens), rng):
        if alike := lexicon.alike(tokens, place):
            replaced[place] = int(rng.choice(alike))
    return replaced


def _insert(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    longer = list(tokens)
    for place in _chosen(len(tokens), rate, len(tokens), rng):
        alike = lexicon.alike(tokens, place) or [tokens[place]]
        longer.insert(int(rng.integers(len(longer) + 1)), int(rng.choice(alike)))
    return longer


def _crop(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    kept = len(tokens) - _number(rate * len(tokens), len(tokens) - 1, rng)
    start = int(rng.integers(len(tokens) - kept + 1))
    return tokens[start : start + kept]


def _spelling(tokens: list[int], rate: float, rng: np.random.Generator, lexicon: Lexicon) -> list[int]:
    text = lexicon.read(tokens)
    words, letters = list(_LETTERS.finditer(lexicon.without_marks(text))), list(text)
    for word in _chosen(len(words), rate, len(words), rng):
        at = int(rng.integers(words[word].start(), words[word].end() - 1))
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return lexicon.split("".join(letters)) or tokens


EDITS: dict[str, Edit] = {
    "del-word": _del_word,
    "del-span": _del_span,
    "delete": _delete,
    "reorder": _reorder,
    "swap": _swap,
    "shuffle": _shuffle,
    "subs": _subs,
    "insert": _insert,
    "crop": _crop,
    "spelling": _spelling,
}
"""The edits by name."""
