"""Recurrent encoders of texts, made from scratch: GRU, LSTM or a plain sum, over words or characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from nearfar.data.kinds import Text
from nearfar.encoders.encoder import Features
from nearfar.encoders.settings import MadeOfSettings
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.pool import pool

Units = Literal["words", "characters"]
Cell = Literal["gru", "lstm", "sum"]
Pooling = Literal["last", "mean"]
TOKEN = re.compile(r"\w+|[^\w\s]")
UNKNOWN = 0
"""Number of all tokens that are not in the vocabulary, and the one token of a text that has none."""
MOST_TOKENS, FEW_TOKENS = 20_000, 50
WEIGHTS = 0.1
"""Embeddings are drawn evenly from -WEIGHTS to WEIGHTS."""


def tokens_of(text: str, units: Units) -> list[str]:
    """Words in lower case and marks, or characters as they are; lone surrogates are read as question marks."""
    readable = text.encode("utf-8", "replace").decode("utf-8")
    return TOKEN.findall(readable.lower()) if units == "words" else list(readable)


class RecurrentText(MadeOfSettings):
    """Embedded tokens through a network in both directions; its last states are the text.

        pooled = [forward network after the last token ; backward network after the first]       [dim]

    or, with the pooling "mean", the mean of the states of all tokens. With the cell "sum" there is no network: the sum
    of the tokens' embeddings is the text, and `dim` their width. Embeddings begin evenly between -0.1 and 0.1, and the
    gates that keep the state with a bias of 1, as in the release of Quick-Thoughts.

    Args:
        vocabulary: the known tokens.
        units: what a token is.
        cell: what reads them.
        embedding: width of the embedding of a token.
        dim: width of the features, both directions together (even).
        max_length: tokens kept of a text.
        pooling: see above.

    Raises:
        ArgumentError: no tokens, an unknown unit, cell or pooling, an odd or too small width.
    """

    kind = Text

    def __init__(
        self,
        vocabulary: Sequence[str],
        units: Units = "words",
        cell: Cell = "gru",
        embedding: int = 128,
        dim: int = 256,
        max_length: int = 30,
        pooling: Pooling = "last",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("units", units, Units),
            ("cell", cell, Cell),
            ("pooling", pooling, Pooling),
        ):
            if value not in get_args(known):
                raise ArgumentError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        if not vocabulary:
            raise ArgumentError("a recurrent encoder needs at least one known token")
        check_between(1, torch.inf, embedding=embedding, dim=dim)
        if dim % 2:
            raise ArgumentError(f"dim must be even, a half for each direction, got {dim}")
        self.vocabulary, self.units, self.cell = list(vocabulary), units, cell
        self.dim = embedding if cell == "sum" else dim
        self._settings = {"vocabulary": self.vocabulary, "units": units, "cell": cell}
        self._settings |= {"embedding": embedding, "dim": dim, "pooling": pooling}
        self.pooling = pooling
        self._number = {token: number for number, token in enumerate(self.vocabulary, start=1)}
        self.embedding = nn.Embedding(len(self.vocabulary) + 1, embedding)
        network: type[nn.GRU | nn.LSTM] = nn.LSTM if cell == "lstm" else nn.GRU
        directions = 0 if cell == "sum" else 2
        self.network = nn.ModuleList(
            network(embedding, dim // 2, batch_first=True) for _ in range(directions)
        )
        self.set_max_length(max_length)
        self.reset()
        self.reset_counts()

    @classmethod
    def fitted(cls, examples: Sequence[Any], units: Units = "words", **settings: Any) -> Self:
        """An encoder with the tokens of some texts, the commonest first, at most `MOST_TOKENS`.

        Those that come once are left out, so that the unknown token learns too; not where fewer than `FEW_TOKENS`
        would be left.

        Args:
            examples: texts.
            units: what a token is.
            settings: the other arguments of the encoder.

        Raises:
            ArgumentError: the texts hold no token.
        """
        found = Counter(token for text in examples for token in tokens_of(text, units))
        kept = [token for token, n in found.items() if n > 1]
        if len(kept) < FEW_TOKENS:
            kept = list(found)
        kept.sort(key=lambda token: (-found[token], token))
        return cls(kept[:MOST_TOKENS], units=units, **settings)

    def reset(self) -> None:
        """Draw all parameters anew."""
        nn.init.uniform_(self.embedding.weight, -WEIGHTS, WEIGHTS)
        for network in self.network:
            cast(nn.RNNBase, network).reset_parameters()
            bias = cast(Tensor, network.bias_ih_l0).detach()
            # PyTorch has the gates of a GRU in the order reset, update, new; of an LSTM input, forget, new, output.
            half = self.dim // 2
            gates = slice(0, 2 * half) if self.cell == "gru" else slice(half, 2 * half)
            bias[gates] = 1

    def set_max_length(self, max_length: int) -> None:
        """Keep `max_length` tokens of every text from now on."""
        check_between(1, torch.inf, max_length=max_length)
        self.max_length = self._settings["max_length"] = max_length

    def prepare(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Cut B texts into tokens, padded to the longest; a text without any is one unknown token.

        Returns:
            "ids", token numbers, int64 [B, L], and "mask", True where there is a token, [B, L].
        """
        numbers = []
        for text in rows:
            tokens = tokens_of(text, self.units)
            self.truncated += len(tokens) > self.max_length
            numbers.append([self._number.get(t, UNKNOWN) for t in tokens[: self.max_length]] or [UNKNOWN])
        self.seen += len(numbers)
        self.unread += sum(not any(row) for row in numbers)
        lengths = torch.tensor([len(row) for row in numbers])
        longest = int(lengths.max())
        ids = torch.tensor([row + [UNKNOWN] * (longest - len(row)) for row in numbers])
        return {"ids": ids, "mask": torch.arange(longest) < lengths[:, None]}

    def forward(self, inputs: dict[str, Tensor]) -> Features:
        """Encode "ids" and "mask", both [B, L]."""
        mask, embedded = inputs["mask"], self.embedding(inputs["ids"])
        if not self.network:
            return Features(embedded, mask, (embedded * mask[:, :, None]).sum(1))
        # Two networks over padded rows, the second over turned ones: several times as fast to train on a CPU as
        # packed sequences, and just as blind to the padding, which comes after all tokens of a row.
        length, place = mask.sum(1, keepdim=True), torch.arange(mask.shape[1], device=mask.device)
        turned = torch.where(mask, length - 1 - place, place)[:, :, None]
        ahead, _ = self.network[0](embedded)
        back, _ = self.network[1](embedded.gather(1, turned.expand_as(embedded)))
        back = back.gather(1, turned.expand_as(back))
        tokens = torch.cat([ahead, back], dim=2)
        if self.pooling == "mean":
            return Features(tokens, mask, pool(tokens, mask, "mean"))
        last = ahead.gather(1, (length - 1)[:, :, None].expand(-1, 1, ahead.shape[2])).squeeze(1)
        return Features(tokens, mask, torch.cat([last, back[:, 0]], dim=1))

    def reset_counts(self) -> None:
        """Start counting `seen`, `truncated` and `unread` texts anew."""
        self.seen = self.truncated = self.unread = 0

    def note(self) -> str | None:
        """How many texts were cut, and how many hold nothing that is known."""
        found = {f"were longer than {self.max_length} {self.units} and cut": self.truncated}
        found[f"hold none of the known {self.units}"] = self.unread
        parts = [f"{n:,} {what}" for what, n in found.items() if n]
        return f"of {self.seen:,} texts read, {'; '.join(parts)}" if parts else None


class CharacterText(RecurrentText):
    """A `RecurrentText` that is by itself the mean state of an LSTM over characters, for texts of any spelling."""

    @classmethod
    def fitted(cls, examples: Sequence[Any], units: Units = "characters", **settings: Any) -> Self:
        """An encoder with the characters of some texts, embedded in 64 numbers; 140 of a text are read."""
        own: dict[str, Any] = {"cell": "lstm", "embedding": 64, "max_length": 140, "pooling": "mean"}
        return super().fitted(examples, units, **{**own, **settings})
