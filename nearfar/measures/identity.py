"""Which raw cells are the same thing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nearfar.measures.rows import Indices


def identities(cells: Sequence[Any]) -> Indices:
    """Number raw cells by value: equal cells get equal numbers, in order of first appearance: [N].

    Texts, numbers and labels are compared as they are, arrays and pictures by shape and content.
    """
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(_value(cell), len(numbers)) for cell in cells], dtype=np.int64)


def _value(cell: Any) -> Any:
    if not hasattr(cell, "tobytes"):
        return cell
    form = (cell.dtype.str, cell.shape) if hasattr(cell, "dtype") else (cell.mode, cell.size)
    return form, hashlib.blake2b(cell.tobytes(), digest_size=16).digest()
