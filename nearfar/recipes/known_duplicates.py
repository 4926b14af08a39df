"""Two captions of a picture in one batch: false negatives that are known, to judge methods that look for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.clusters import ClusterOrder
from nearfar.data.table import Table
from nearfar.encoders.text import TransformerText
from nearfar.experiment import DataFolder
from nearfar.method import Batch, Method
from nearfar.recipes.tiny_mlm import captions, tiny_mlm

BATCH = 128
"""Texts of a batch: 64 pictures, two captions of each."""
M = TypeVar("M", bound=Method)


def base(data: DataFolder) -> TransformerText:
    """The encoder that all arms start from, pooled by its first token as in the papers."""
    encoder = tiny_mlm(data)
    encoder.pooling = "cls"
    return encoder


def captioned(data: DataFolder, pictures: int) -> Table:
    """Captions of the first pictures; rows 2i and 2i + 1 tell of one."""
    frame = captions(data).head(pictures)
    texts = frame[["caption1", "caption2"]].to_numpy().ravel().tolist()
    return Table.from_columns({"text": texts}, name="two captions of each picture")


def together(method: M) -> M:
    """The method, with both captions of a picture in one batch; which pictures meet is drawn anew every epoch."""
    method.order = lambda rows, *rest: _pictures(rows).order(rows, *rest)  # type: ignore[method-assign]
    return method


def batches(method: Method, table: Table, seed: int, count: int) -> Iterator[Batch]:
    """Prepared batches of whole pictures; row 2i of each is a caption of the same picture as row 2i + 1."""
    order = _pictures(len(table)).order(len(table), BATCH, seed, 0)
    for number in range(count):
        rows = order[number * BATCH : (number + 1) * BATCH]
        yield method.prepare(method.examples(table, rows), torch.Generator().manual_seed(number))


def same_picture() -> Tensor:
    """Which different rows of such a batch tell of one picture: bool [B, B]."""
    picture = torch.arange(BATCH) // 2
    return (picture[:, None] == picture[None, :]).fill_diagonal_(False)


@cache
def _pictures(rows: int) -> ClusterOrder:
    return ClusterOrder([np.arange(rows).reshape(-1, 2)])
