"""The colours of all pictures: told apart by readers with any colour vision, on white and on black.

Okabe, Ito. "Color Universal Design." 2008; without its yellow, which vanishes on white.
"""

from __future__ import annotations

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#8A8F98",
)

SERIES = (BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, GREY)
"""In this order for series that have no meaning of their own."""

BEFORE, AFTER = ORANGE, BLUE
NEAR, FAR = BLUE, VERMILION

SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x", "star")
"""Marks that change when the colours have all been used once."""


def faded(colour: str, opacity: float) -> str:
    """A colour "#RRGGBB" with an opacity in [0, 1], as CSS writes it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"
