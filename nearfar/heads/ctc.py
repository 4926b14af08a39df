"""From the states of frames to characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.objectives.ctc import collapsed


class CTCHead(nn.Module):
    """Dropout and a linear map to the blank (class 0) and the characters of an alphabet.

    Texts are compared in lower case, with single spaces.

    Args:
        dims: width of the states.
        alphabet: the A characters that a text may hold.
        dropout: of the states.

    Raises:
        ArgumentError: not one width, or an alphabet that is empty, has a character twice or capitals.
    """

    def __init__(self, *dims: int, alphabet: str, dropout: float = 0.1) -> None:
        super().__init__()
        if len(dims) != 1:
            raise ArgumentError(f"CTCHead takes the width of the states alone, got {dims}")
        if not alphabet or len(set(alphabet)) < len(alphabet) or alphabet != alphabet.lower():
            raise ArgumentError(
                f"alphabet must hold each character once, in lower case (texts are lowered), got {alphabet!r}"
            )
        self.dims, self.alphabet = dims, alphabet
        self.dropout, self.map = nn.Dropout(dropout), nn.Linear(dims[0], 1 + len(alphabet))

    def forward(self, states: Tensor) -> Tensor:
        """States [B, T, d] to log-probabilities [B, T, 1 + A]."""
        return self.map(self.dropout(states)).log_softmax(dim=-1)

    def characters(self, text: str) -> list[int]:
        """The classes of a text.

        Raises:
            ArgumentError: names the first character that is not in the alphabet.
        """
        known = {character: at for at, character in enumerate(self.alphabet, start=1)}
        lowered = " ".join(text.lower().split())
        foreign = next((character for character in lowered if character not in known), None)
        if foreign is not None:
            raise ArgumentError(f"{foreign!r} is not in the alphabet {self.alphabet!r}")
        return [known[character] for character in lowered]

    def text(self, classes: Sequence[int]) -> str:
        """The inverse of `characters`."""
        return "".join(self.alphabet[one - 1] for one in classes)

    def read(self, log_probabilities: Tensor, mask: Tensor) -> list[str]:
        """Greedy decoding: the most probable path, repeats merged, blanks dropped.

        Args:
            log_probabilities: [B, T, 1 + A].
            mask: True where a frame is valid, [B, T].
        """
        paths = log_probabilities.argmax(dim=-1)
        return [self.text(collapsed(path[valid])) for path, valid in zip(paths, mask, strict=True)]

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "CTCHead", "dims": list(self.dims), "alphabet": self.alphabet}
