"""Emoji pictures with their names: small, real pairs of picture and text, from three artists.

Train on two artists and test on the third ("render split"): the same things, drawn by a hand never seen.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import pandas as pd

from nearfar.data.table import Table
from nearfar.experiment import DataFolder


def emoji_tables(data: DataFolder) -> tuple[Table, Table]:
    """Pairs to train on (Twitter and EmojiOne pictures) and pairs of the held-out artist (Google).

    Roles: image, text (the name), label (the category).
    """
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
    return _table(rows, names, "emoji of two artists"), _table(held_out, names, "emoji of a third artist")


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
