"""Columns: which kind the cells are of, and how a stored cell becomes what `Table.rows` hands over."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.kinds import Audio, Id, Image, Kind, Label, Links, Number, Text, Vector
from nearfar.data.lists import parsed_links, parsed_vector
from nearfar.data.media import file_bytes, file_kind, open_image, open_sound

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

SAMPLE = 1000
"""Rows that the kind of a column is read off from."""
FEW = 3
"""A column of labels repeats each value at least this often on average."""
SCAN = 1000
"""Rows in memory at once in a pass over the table."""

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})\Z")


@dataclass(frozen=True)
class Column:
    """A column in a role.

    Attributes:
        name: its name in the file.
        kind: what its cells are read as.
        decode: stored cell -> cell as `Table.rows` hands it over; raises ValueError with the reason
            when the cell is not of the kind.
        label_names: names of the classes in the order of their integers (labels only).
        sparse: whether cells may be empty; `decode` makes None of them.
    """

    name: str
    kind: type[Kind]
    decode: Callable[[Any], Any]
    label_names: tuple[str, ...] = ()
    sparse: bool = False


def is_empty(cell: Any) -> bool:
    """Whether nothing stands in a cell as stored."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def sparse(column: Column) -> Column:
    """The same column where cells may be empty."""
    return replace(column, decode=lambda cell: None if is_empty(cell) else column.decode(cell), sparse=True)


def first_cells(dataset: Dataset, name: str) -> list[Any]:
    """The cells of a column that are not empty, of the first `SAMPLE` rows among which there are any."""
    for start in range(0, len(dataset), SAMPLE):
        [cells] = stored_cells(dataset, [name], slice(start, start + SAMPLE)).values()
        if filled := [cell for cell in cells if not is_empty(cell)]:
            return filled
    return []


def stored_cells(dataset: Dataset, names: Sequence[str], rows: Any) -> dict[str, list[Any]]:
    """Cells of some rows (a slice, or a list of indices) as stored; lists of numbers as float32 or int64 [d]."""
    if (
        isinstance(rows, np.ndarray)
        and len(rows)
        and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
    ):
        rows = slice(int(rows[0]), int(rows[0]) + len(rows))  # read in one piece, not row by row
    table = dataset.with_format("arrow", columns=list(names))[rows]
    return {name: _unpacked(table.column(name)) for name in names}


def scan(dataset: Dataset, names: Sequence[str]) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """All rows in order, a window at a time: (index of the first row, its cells)."""
    for start in range(0, len(dataset), SCAN):
        yield start, stored_cells(dataset, names, slice(start, start + SCAN))


def _numeric_list(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return types.is_floating(kind.value_type) or types.is_integer(kind.value_type)


def _unpacked(column: pa.ChunkedArray) -> list[Any]:
    if not _numeric_list(column.type):
        return column.to_pylist()
    import pyarrow.types as types

    whole = types.is_integer(column.type.value_type)
    cells: list[Any] = []
    for chunk in column.chunks:
        values = chunk.flatten()
        exact = whole and not values.null_count  # an empty place in a list becomes NaN
        values = values.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            values = values.astype(np.int64 if exact else np.float32)
        lengths = np.array(chunk.value_lengths().fill_null(0), dtype=np.int64)
        parts = np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []
        cells += [
            part if valid else None for part, valid in zip(parts, chunk.is_valid().to_pylist(), strict=True)
        ]
    return cells


def parsed_number(cell: Any) -> float:
    """A number, also one written as a string.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(cell)
    except (ValueError, TypeError):
        raise ValueError("not a number") from None


def accepts(parse: Callable[[Any], Any], cells: Sequence[Any]) -> bool:
    """Whether `parse` takes all cells without a ValueError."""
    try:
        for cell in cells:
            parse(cell)
    except ValueError:
        return False
    return True


def detect(dataset: Dataset, name: str, folder: Path | None) -> type[Kind] | None:
    """The kind that the first cells of a column suggest; None where it is of no kind (nested data)."""
    found = dataset.features[name]
    if type(found).__name__ in ("ClassLabel", "Audio"):
        return Label if type(found).__name__ == "ClassLabel" else Audio
    cells = first_cells(dataset, name)
    if not cells:
        return Text
    first = cells[0]
    if isinstance(first, (np.ndarray, bool)):
        return Label if isinstance(first, bool) else Vector
    if isinstance(first, (dict, bytes)):
        return file_kind(cells, folder)
    if isinstance(first, float):
        return Number
    if isinstance(first, int):
        return _repeated(cells) or (Id if len(set(cells)) == len(cells) else Number)
    return _kind_of_strings(cells, folder) if isinstance(first, str) else None


def _repeated(cells: Sequence[Any]) -> type[Kind] | None:
    return Label if len(set(cells)) * FEW <= len(cells) else None


def _kind_of_strings(cells: Sequence[str], folder: Path | None) -> type[Kind]:
    if accepts(parsed_number, cells):
        whole = all(_WHOLE.match(cell) for cell in cells)
        named = _repeated(cells) or (Id if len(set(cells)) == len(cells) else None)
        return named if whole and named else Number
    if cells[0].lstrip().startswith("[") and accepts(parsed_vector, cells):
        return Vector
    if (kind := file_kind(cells, folder)) is not None:
        return kind
    if max(map(len, cells)) <= 60 and _repeated(cells):
        return Label
    names = all(
        len(cell) <= 60 and not re.search(r"\s", cell) and re.search(r"[0-9]", cell) for cell in cells
    )
    return Id if names and len(set(cells)) == len(cells) else Text


def can_hold(dataset: Dataset, name: str, kind: type[Kind]) -> bool:
    """Whether the stored type of a column allows it to be read as `kind`; strings allow all kinds."""
    import pyarrow.types as types

    if type(dataset.features[name]).__name__ == "ClassLabel":
        return kind in (Label, Id)
    stored = dataset.features.arrow_schema.field(name).type
    if types.is_string(stored) or types.is_large_string(stored):
        return True
    if types.is_integer(stored) or types.is_boolean(stored):
        return kind in (Label, Id, Number)
    if types.is_floating(stored):
        return kind in (Number, Label)
    if types.is_binary(stored) or types.is_large_binary(stored) or types.is_struct(stored):
        return kind in (Image, Audio)
    return kind in (Vector, Links) and _numeric_list(stored)


def bind(dataset: Dataset, name: str, kind: type[Kind], folder: Path | None) -> Column:
    """Read a column as `kind`. For labels this is a pass over the column: it collects the classes."""
    if kind is Image:
        return Column(name, kind, lambda cell: open_image(cell, folder))
    if kind is Audio:
        return Column(name, kind, lambda cell: open_sound(cell, folder))
    if kind is Label:
        return _bind_labels(dataset, name)
    decode: dict[type[Kind], Callable[[Any], Any]] = {
        Text: lambda cell: cell,
        Vector: parsed_vector,
        Links: parsed_links,
        Number: parsed_number,
        Id: _identity,
    }
    return Column(name, kind, decode[kind])


def _identity(cell: Any) -> int:
    """Integers, also those written as strings, stay; other strings become 63 bits of their hash."""
    if isinstance(cell, int) or _WHOLE.match(cell):
        return int(cell)
    return int.from_bytes(hashlib.blake2b(cell.encode(), digest_size=8).digest()) >> 1


def class_name(cell: Any) -> str:
    """The name of the class that a cell stands for.

    Raises:
        ValueError: the cell is a number that is not whole.
    """
    if isinstance(cell, float):
        if not cell.is_integer():
            raise ValueError("not a class: classes are strings or integers")
        cell = int(cell)
    return str(cell).strip()


def _bind_labels(dataset: Dataset, name: str) -> Column:
    known = getattr(dataset.features[name], "names", None)
    if known is not None:

        def checked(cell: int) -> int:
            if not 0 <= cell < len(known):
                raise ValueError(f"{cell} is no class: the column has {len(known)} classes")
            return cell

        return Column(name, Label, checked, tuple(known))
    found = {
        class_name(cell)
        for _, cells in scan(dataset, [name])
        for cell in set(cells[name]) - {None, ""}
        if not isinstance(cell, float) or cell.is_integer()
    } - {""}
    numeric = all(_WHOLE.match(value) for value in found)
    names = tuple(sorted(found, key=int) if numeric else sorted(found))
    index = {value: at for at, value in enumerate(names)}
    return Column(name, Label, lambda cell: index[class_name(cell)], names)


def cell_bytes(column: Column, cell: Any, folder: Path | None) -> bytes:
    """What a stored cell means, however it is stored: what fingerprints and duplicates go by."""
    if column.sparse and is_empty(cell):
        return b""
    if column.kind in (Image, Audio):
        return file_bytes(cell, folder, "file")
    value = column.decode(cell)
    if column.kind is Text:
        return value.encode()
    if column.kind is Label:
        return column.label_names[value].encode()
    return np.asarray(
        value, dtype="<f4" if column.kind is Vector else "<f8" if column.kind is Number else "<i8"
    ).tobytes()
