"""A text in Latin letters.

This project uses the universal romanizer software 'uroman' written by Ulf Hermjakob, USC Information Sciences
Institute (2015-2020).
"""

from __future__ import annotations

import functools
from typing import Any

from nearfar.errors import need

EXTRA = "scripts"
"""The extra that brings uroman."""


def romanise(text: str) -> str:
    """Write a text in Latin letters, whatever its script: about a millisecond for a sentence.

    What is Latin stays, without its accents. A text of nothing but marks and signs that are not spoken, such as a
    lone variation selector or a soft sign, leaves an empty string.

    Hermjakob, May, Knight. "Out-of-the-box Universal Romanization Tool uroman." ACL 2018.

    Raises:
        MissingExtra: the package uroman is not installed.
    """
    romanised: str = _uroman().romanize_string(text)
    return romanised.strip()


def vanishes(text: str) -> bool:
    """Whether nothing is left of a text when it is romanised."""
    seen = any("!" <= character <= "~" for character in text)  # ASCII stays as it is: nothing to romanise
    return not seen and not romanise(text)


@functools.cache
def _uroman() -> Any:
    return need("uroman", EXTRA).Uroman()  # reads its tables, which takes seconds: once
