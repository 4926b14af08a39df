"""What edits of texts must know of the tokens of an encoder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nearfar.data.table import Table
from nearfar.encoders.added_token import add_token
from nearfar.encoders.text import TransformerText
from nearfar.views.words import word_cosines

DELETED = "[DEL]"
"""The token that stands where something was deleted."""
MOST_WORDS, MOST_TEXTS = 2_000, 20_000
"""Words and texts, at most, from which similar words are found."""
LEAST_TEXTS = 5
"""Texts that a word must be in; the company of a rarer one says nothing."""
ALIKE, LEAST_COSINE = 5, 0.5
"""Words, at most, that may take the place of one, and how similar they must be."""
_READ_AT_ONCE = 1_000


@dataclass(frozen=True)
class Lexicon:
    """What edits know of tokens.

    Attributes:
        deleted: number of the token [DEL].
        ends: special tokens that may stand before and after a text.
        tokenizer: of the encoder, without truncation and padding.
        similar: number of a whole word -> numbers of words that are used like it.
        first: tokens that begin a word somewhere: what stands before one of them is the end of a word.
    """

    deleted: int
    ends: frozenset[int]
    tokenizer: Any
    similar: Mapping[int, list[int]] = field(default_factory=dict)
    first: frozenset[int] = frozenset()

    def alike(self, tokens: Sequence[int], place: int) -> list[int]:
        """Words that are used like the one at a place; none where it is a part of a word."""
        whole = tokens[place] in self.first and (
            place + 1 == len(tokens) or tokens[place + 1] in self.first or tokens[place + 1] == self.deleted
        )
        return self.similar.get(tokens[place], []) if whole else []

    def read(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def without_marks(self, text: str) -> str:
        """A text that was read, with spaces in place of special tokens, which are no words of it."""
        marks = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        return re.sub("|".join(map(re.escape, marks)), lambda mark: " " * len(mark[0]), text)

    def split(self, text: str) -> list[int]:
        """The tokens of a text, without special ones around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @property
    def note(self) -> str:
        """How many words can be replaced, in a sentence."""
        return f"{len(self.similar):,} words of the table have a similar one, and only these can be replaced by it"


def lexicon_of(encoder: TransformerText, table: Table | None = None) -> Lexicon:
    """What edits must know of the tokens of an encoder, which gets a token [DEL] if it has none.

    Args:
        encoder: changed in place.
        table: in whose texts similar words are found (`nearfar.views.words.word_cosines`); of more than `MOST_TEXTS`
            so many are read, evenly. Without a table no word has a similar one.
    """
    from tokenizers.decoders import WordPiece as WordPieceDecoder
    from tokenizers.models import WordPiece

    deleted = add_token(encoder, DELETED)
    own = encoder.tokenizer
    tokenizer = type(own.backend_tokenizer).from_str(own.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.decoder is None and isinstance(tokenizer.model, WordPiece):
        # Without it the pieces of a word are read with their marks, "fa ##ll", and split into others again.
        tokenizer.decoder = WordPieceDecoder(cleanup=False)
    ends = frozenset(set(own.all_special_ids) - {own.unk_token_id, deleted})
    if table is None:
        return Lexicon(deleted, ends, tokenizer)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(len(table), MOST_TEXTS)).astype(np.int64))
    similar, first = _similar_words(tokenizer, table.rows(chosen)["text"])
    return Lexicon(deleted, ends, tokenizer, similar, first)


def _similar_words(tokenizer: Any, texts: Sequence[str]) -> tuple[dict[int, list[int]], frozenset[int]]:
    """Words of one token -> those used like them, most similar first; and all tokens that begin a word."""
    found: Counter[int] = Counter()
    first: set[int] = set()
    whole = []
    for words in _words(tokenizer, texts):
        first.update(word[0] for word in words)
        single = {word[0] for word in words if len(word) == 1}
        found.update(single)
        whole.append(single)
    common = [token for token, times in found.most_common(MOST_WORDS) if times >= LEAST_TEXTS]
    common = [token for token in common if tokenizer.decode([token]).strip().isalpha()]
    if len(common) < 2:
        return {}, frozenset(first)
    place = {token: i for i, token in enumerate(common)}
    counts = np.zeros((len(texts), len(common)), dtype=bool)
    for row, tokens in enumerate(whole):
        counts[row, [place[token] for token in tokens if token in place]] = True
    cosines = word_cosines(counts).fill_diagonal_(-torch.inf)
    best, which = cosines.topk(min(ALIKE, len(common) - 1), dim=1)
    similar = {
        token: [common[i] for i, cosine in zip(row, near, strict=True) if cosine >= LEAST_COSINE]
        for token, row, near in zip(common, which.tolist(), best.tolist(), strict=True)
    }
    return {token: words for token, words in similar.items() if words}, frozenset(first)


def _words(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[list[int]]]:
    """The words of each text, as tokens."""
    for start in range(0, len(texts), _READ_AT_ONCE):
        for encoding in tokenizer.encode_batch(
            list(texts[start : start + _READ_AT_ONCE]), add_special_tokens=False
        ):
            words: dict[int, list[int]] = {}
            for token, word in zip(encoding.ids, encoding.word_ids, strict=True):
                if word is not None:
                    words.setdefault(word, []).append(token)
            yield list(words.values())
