"""Texts as counts of their words, without order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from nearfar.data.kinds import Text
from nearfar.encoders.encoder import Features
from nearfar.encoders.settings import MadeOfSettings
from nearfar.errors import ArgumentError

WORD = re.compile(r"[^\W\d_]{2,}")
COMMON = 0.7
"""Words in more than this share of texts tell nothing of what a text is about."""
FEW_WORDS, MOST_WORDS = 50, 10_000


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: two letters or more, of any script."""
    return WORD.findall(text.lower())


class BagOfWords(MadeOfSettings):
    """Counts of the words of a vocabulary through one layer: softplus(W x + b).

    Args:
        vocabulary: V words in lower case.
        dim: width of the features.
        dropout: of the features.

    Attributes:
        unknown: texts since the last `reset_counts` that hold no word of the vocabulary.
    """

    kind = Text

    def __init__(self, vocabulary: Sequence[str], dim: int = 300, dropout: float = 0.2) -> None:
        super().__init__()
        if not vocabulary or dim < 1:
            raise ArgumentError(f"a bag of words needs words and a width, got {len(vocabulary)} and {dim}")
        self.vocabulary, self.dim = list(vocabulary), dim
        self._settings = {"vocabulary": self.vocabulary, "dim": dim, "dropout": dropout}
        self._rank = {word: number for number, word in enumerate(self.vocabulary)}
        self.layer, self.dropout = nn.Linear(len(self.vocabulary), dim), nn.Dropout(dropout)
        self.unknown = 0

    @classmethod
    def fitted(cls, examples: Sequence[Any]) -> Self:
        """An encoder with the words of some texts.

        The words in two texts or more but not in nearly all, at most `MOST_WORDS`, commonest first; where these are
        fewer than `FEW_WORDS`, all words.

        Raises:
            ArgumentError: the texts hold no word.
        """
        found = Counter(word for text in examples for word in set(words_of(text)))
        kept = [word for word, n in found.items() if 2 <= n <= COMMON * len(examples)]
        if len(kept) < FEW_WORDS:
            kept = list(found)
        if not kept:
            raise ArgumentError(f"none of the {len(examples)} texts holds a word of two letters")
        return cls(sorted(kept, key=lambda word: (-found[word], word))[:MOST_WORDS])

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Count words.

        Returns:
            "counts", float32 [B, V].
        """
        counts = torch.zeros(len(rows), len(self.vocabulary))
        for row, text in enumerate(rows):
            known = [self._rank[word] for word in words_of(text) if word in self._rank]
            self.unknown += not known
            for number, n in Counter(known).items():
                counts[row, number] = n
        return {"counts": counts}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode "counts" [B, V]; there is one token, the text."""
        pooled = self.dropout(functional.softplus(self.layer(inputs["counts"])))
        mask = torch.ones(len(pooled), 1, dtype=torch.bool, device=pooled.device)
        return Features(pooled.unsqueeze(1), mask, pooled)

    def reset_counts(self) -> None:
        self.unknown = 0

    def note(self) -> str | None:
        if not self.unknown:
            return None
        return f"{self.unknown} texts hold no word of the vocabulary: nothing is known of what they are about"
