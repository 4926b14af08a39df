"""Emoji pictures with their names: small, real pairs of picture and text, from three artists.

Train on two artists and test on the third ("render split"): the same things, drawn by a hand never seen.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from nearfar.data.table import Table
from nearfar.experiment import DataFolder

LEVELS = ("label", "subgroup", "group")
"""What an emoji is called, from the specific to the general."""


def emoji_tables(data: DataFolder) -> tuple[Table, Table]:
    """Pairs to train on (Twitter and EmojiOne pictures) and pairs of the held-out artist (Google).

    Roles: image, text (the name), label (the category).
    """
    names, training, held_out = _sources(data)
    return (
        _table(training, names, "emoji of two artists"),
        _table(held_out, names, "emoji of a third artist"),
    )


def emoji_levels(data: DataFolder, copies: int) -> tuple[Table, Table, pd.DataFrame]:
    """The same pictures with captions of three levels: of 10, 7 are names, 2 subgroups and 1 is a group.

    Returns:
        Pairs to train on, every picture `copies` times, each with a caption drawn once and for all; pairs of the
        held-out artist with their names; and of these, row by row, the columns label, subgroup and group.
    """
    names, training, held_out = _sources(data)
    drawn = np.random.default_rng(0).choice(LEVELS, size=len(training) * copies, p=(0.7, 0.2, 0.1))
    columns: dict[str, Any] = {
        "image": [_picture(picture) for _, picture in training] * copies,
        "text": [names.loc[code, level] for (code, _), level in zip(training * copies, drawn, strict=True)],
    }
    levels = names.loc[[code for code, _ in held_out], list(LEVELS)]
    made = Table.from_columns(columns, name="emoji of two artists, captions of three levels")
    return made, _table(held_out, names, "emoji of a third artist"), levels


def _sources(data: DataFolder) -> tuple[pd.DataFrame, list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    """Names by code, and code and picture of those to train on and of those held out."""
    names = pd.read_parquet(data.file("emoji_vendors/emoji.parquet")).set_index("hexcode")
    vendors = pd.read_parquet(data.file("emoji_vendors/images_twitter_google.parquet"))
    third = pd.read_parquet(data.file("emoji_images/emoji_images.parquet"))
    third["hexcode"] = third["codepoints"].map(_plain_code)
    by_plain_code = {_plain_code(code): code for code in names.index}
    rows: list[tuple[str, bytes]] = [
        (code, picture)
        for code, picture, vendor in zip(vendors["hexcode"], vendors["image"], vendors["vendor"], strict=True)
        if vendor == "twitter"
    ]
    rows += [
        (by_plain_code[code], picture)
        for code, picture in zip(third["hexcode"], third["image"], strict=True)
        if code in by_plain_code
    ]
    google = vendors[vendors["vendor"] == "google"]
    held_out = list(zip(google["hexcode"], google["image"], strict=True))
    return names, rows, held_out


def _plain_code(code: str) -> str:
    """Code points without the variation selector, which the sources write differently."""
    return "-".join(part for part in code.upper().split("-") if part not in {"FE0F", "200D"})


def _table(rows: list[tuple[str, bytes]], names: pd.DataFrame, name: str) -> Table:
    columns: dict[str, Any] = {
        "image": [_picture(picture) for _, picture in rows],
        "text": [names.loc[code, "label"] for code, _ in rows],
        "label": [names.loc[code, "category"] for code, _ in rows],
    }
    return Table.from_columns(columns, name=name)


@cache
def _picture(encoded: bytes) -> Any:
    """The picture on white, as transparent ones are shown."""
    from PIL import Image

    opened = Image.open(io.BytesIO(encoded)).convert("RGBA")
    white = Image.new("RGBA", opened.size, "white")
    return Image.alpha_composite(white, opened).convert("RGB")
