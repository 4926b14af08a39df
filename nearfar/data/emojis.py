"""Emojis in texts: which there are, and the texts without them."""

from __future__ import annotations

import re

from nearfar.errors import need

_FORM = re.compile("[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]")
"""Variation selectors and skin tones: how an emoji looks, not which one it is."""
_REST = re.compile(
    "[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U0001f1e6-\U0001f1ff\U000e0020-\U000e007f]"
)
"""What is left of emojis that were cut: the above, joiners, key caps, halves of flags, tags."""


def emojis_of(text: str) -> list[str]:
    """The emojis of a text without variation selectors and skin tones, each once, in order.

    What is an emoji is what the package `emoji` knows as one: also signs such as the one for copyright. Those
    joined to one picture (families, flags) are one emoji.

    Raises:
        MissingExtra: the package `emoji` is not installed.
    """
    found = [] if text.isascii() else need("emoji", "emoji").emoji_list(text)
    plain = (_FORM.sub("", entry["emoji"]) for entry in found)
    return list(dict.fromkeys(name for name in plain if name))


def without_emojis(text: str) -> str:
    """A text without its emojis and all that belongs to them: selectors, skin tones, joiners.

    Stretches of white space become one space, since gaps would tell where emojis stood, and how many.

    Raises:
        MissingExtra: the package `emoji` is not installed.
    """
    if not text.isascii():
        text = _REST.sub("", need("emoji", "emoji").replace_emoji(text, " "))
    return " ".join(text.split())
