"""Cells that are lists: vectors, and the links of nodes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def parsed_vector(cell: Any) -> np.ndarray:
    """A list of numbers, also one written as JSON: float32 [d].

    Raises:
        ValueError: it is none.
    """
    if isinstance(cell, np.ndarray):
        return np.asarray(cell, dtype=np.float32)
    values = _parsed_list(cell)
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=np.float32)
    except OverflowError:
        raise ValueError("holds an integer too large for a vector") from None


def parsed_links(cell: Any) -> np.ndarray:
    """A list of whole numbers, also one written as JSON: int64 [degree].

    Raises:
        ValueError: it is none.
    """
    values = np.asarray(cell if isinstance(cell, np.ndarray) else _parsed_list(cell))
    if values.dtype.kind == "f" and not np.array_equal(values, np.trunc(values)):
        raise ValueError("not a list of row numbers")
    return values.astype(np.int64)


def _parsed_list(cell: Any) -> list[Any]:
    try:
        values = json.loads(cell)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise ValueError("not a list of numbers")
    return values
