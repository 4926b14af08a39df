"""Python values to typed Arrow columns, cell by cell where a cell does not fit."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar.data.faults import Faults, shown
from nearfar.data.sound import Sound, encoded

BATCH_ROWS = 1000
"""Rows of one Arrow record batch: what one read brings into memory."""

FILE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_TYPES: dict[str, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "truth value": pa.bool_(),
    "list of integers": pa.list_(pa.int64()),
    "list of numbers": pa.list_(pa.float32()),
    "list of strings": pa.list_(pa.string()),
    "image": FILE_TYPE,
    "sound": FILE_TYPE,
    "bytes": pa.binary(),
}
_PLAIN = {str: "text", int: "integer", float: "number", bool: "truth value", bytes: "bytes", dict: "object"}


def category(value: Any) -> str | None:
    """What a Python value is in Arrow's eyes: a key of `_TYPES`, "object", or None for a missing value."""
    if value is None:
        return None
    plain = _PLAIN.get(type(value))
    if plain is not None:
        return plain
    if isinstance(value, np.generic):
        return category(value.item())
    if isinstance(value, np.ndarray):
        if value.ndim != 1:
            return "object"
        return {"i": "list of integers", "f": "list of numbers", "u": "list of numbers"}.get(
            value.dtype.kind, "object"
        )
    if isinstance(value, (list, tuple)):
        if all(type(v) is int and -(2**63) <= v < 2**63 for v in value):
            return "list of integers"
        if all(isinstance(v, (int, float, np.number)) or v is None for v in value):
            return "list of numbers"
        return "list of strings" if all(isinstance(v, str) for v in value) else "object"
    if type(value).__module__.startswith("PIL."):
        return "image"
    if isinstance(value, Sound):
        return "sound"
    return "text" if isinstance(value, str) else "object"


def common_category(counts: Mapping[str, int]) -> str | None:
    """The category of a column whose cells fall into `counts`; None if it can hold no kind.

    Integers among numbers are numbers, alone and in lists; otherwise the most frequent category wins, and
    the cells of the others are faults.
    """
    merged = Counter(counts)
    for whole, number in (("integer", "number"), ("list of integers", "list of numbers")):
        if merged[whole] and merged[number]:
            merged[number] += merged.pop(whole)
    merged = +merged
    if not merged:
        return "text"
    most = max(merged, key=lambda name: (merged[name], name == "text"))
    return None if most == "object" else most


def _fitted(value: Any, wanted: str) -> Any:
    """`value` as `pa.array` takes it for a column of category `wanted`.

    Raises:
        TypeError: the value is of another category.
    """
    found = category(value)
    if found is None or (wanted == "text" and isinstance(value, float) and math.isnan(value)):
        return None
    if wanted == "number" and found in ("integer", "number"):
        return float(value)
    if found != wanted and (found, wanted) != ("list of integers", "list of numbers"):
        raise TypeError(f"holds {shown(value)} where most rows hold a value of kind {wanted}")
    if wanted == "list of numbers":
        with np.errstate(over="ignore"):
            return np.asarray(value, dtype=np.float32)
    if wanted == "list of integers":
        return np.asarray(value, dtype=np.int64)
    if wanted == "image":
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": None}
    if wanted == "sound":
        return {"bytes": encoded(value), "path": None}
    return value.item() if isinstance(value, np.generic) else value


def _surrogate_fault(error: UnicodeEncodeError) -> tuple[str, str]:
    code = ord(error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # how `errors="surrogateescape"` carries a byte that is not UTF-8
        return (
            "undecodable bytes",
            f"byte 0x{code - 0xDC00:02X} at character {error.start + 1} of the cell is not UTF-8: "
            "save the file as UTF-8",
        )
    return (
        "a lone surrogate",
        f"character {error.start + 1} of the cell is the lone surrogate U+{code:04X}, which no text may hold",
    )


def build_array(
    values: Iterable[Any], wanted: str, column: str, numbers: Sequence[int], faults: Faults
) -> pa.Array:
    """One column of one batch; a cell that does not fit becomes null and a fault of its row."""
    values = list(values)
    if wanted == "text" and set(map(type, values)) <= {str, type(None)}:
        try:
            return pa.array(values, type=pa.string())
        except UnicodeEncodeError:
            pass  # found cell by cell below
    cells: list[Any] = []
    for value, row in zip(values, numbers, strict=True):
        try:
            cell = _fitted(value, wanted)
            if isinstance(cell, str):
                cell.encode()
            elif isinstance(cell, int) and not -(2**63) <= cell < 2**63:
                raise OverflowError(f"holds {shown(value)}, an integer beyond 64 bits")
        except UnicodeEncodeError as broken:
            faults.add(row, column, *_surrogate_fault(broken))
            cell = None
        except (TypeError, OverflowError, OSError, ValueError) as broken:
            faults.add(row, column, "a value of another kind", str(broken))
            cell = None
        cells.append(cell)
    return pa.array(cells, type=_TYPES[wanted])


def categories(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """One pass over all rows: the category of each column, and the names of columns of no kind."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.items():
            found = category(value)
            counter = counts.setdefault(name, Counter())
            if found is not None:
                counter[found] += 1
    common = {name: common_category(counter) for name, counter in counts.items()}
    kept = {name: found for name, found in common.items() if found is not None}
    return kept, [name for name, found in common.items() if found is None]


def schema_of(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of columns given by name -> category."""
    return pa.schema([(name, _TYPES[wanted]) for name, wanted in columns.items()])


def batches(
    rows: Iterable[tuple[int, Sequence[Any]]], columns: Mapping[str, str], faults: Faults
) -> Iterator[pa.RecordBatch]:
    """Group numbered rows, whose cells are in the order of `columns`, into record batches."""
    schema = schema_of(columns)
    waiting: list[tuple[int, Sequence[Any]]] = []

    def batch() -> pa.RecordBatch:
        numbers = [number for number, _ in waiting]
        by_column = zip(*(cells for _, cells in waiting), strict=True)
        arrays = [
            build_array(values, wanted, name, numbers, faults)
            for values, (name, wanted) in zip(by_column, columns.items(), strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    for row in rows:
        waiting.append(row)
        if len(waiting) == BATCH_ROWS:
            yield batch()
            waiting.clear()
    if waiting:
        yield batch()
