"""What a teacher makes of a table, computed once, so that no arm of an experiment pays for it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from nearfar.data.kinds import Text
from nearfar.data.source import cache_folder
from nearfar.data.table import Table
from nearfar.encoders import make_encoder
from nearfar.files import atomic_folder
from nearfar.space import Space

ROLES = ("text", "positive")


def teacher_rows(table: Table, name: str, max_length: int) -> tuple[Tensor, Tensor]:
    """Columns `text` and `positive` as MiniLM sees them, unit rows [N, 384] each; cached at the first call.

    Args:
        table: the pairs.
        name: begins the name of the cached folder.
        max_length: tokens that MiniLM reads of a text.
    """
    key = hashlib.sha256(f"1 minilm {max_length} {table.fingerprint}".encode()).hexdigest()[:16]
    place = cache_folder() / "teachers" / f"{name}-{key}"
    if not place.exists():
        space = Space({"text": make_encoder("minilm", Text, [], max_length=max_length)})
        with atomic_folder(place, replace=True) as folder:
            for role in ROLES:
                np.save(folder / f"{role}.npy", space.encode(table.column(role)), allow_pickle=False)
    text, positive = (torch.from_numpy(np.load(place / f"{role}.npy", allow_pickle=False)) for role in ROLES)
    return text, positive
