"""Checks of the cells before anything is computed from them: one pass over the columns in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.columns import Column, first_cells, is_empty, scan
from nearfar.data.faults import Faults, shown
from nearfar.data.kinds import Audio, Image, Label, Links, Number, Text, Vector
from nearfar.data.media import open_image, open_sound
from nearfar.data.sound import SHORTEST, Sound
from nearfar.data.source import Source
from nearfar.errors import TableError
from nearfar.progress import progress

if TYPE_CHECKING:
    from nearfar.data.table import Table

FEW_SOUNDS = 64
"""Sounds decoded at once in a pass over a table."""
Problem = tuple[str, str]
"""(reason, by which faults are counted; message)."""


def find_faults(source: Source, columns: Mapping[str, Column]) -> Faults:
    """Check every cell of the columns in use (role -> column); includes what reading them found."""
    names = list(dict.fromkeys(column.name for column in columns.values()))
    faults = source.faults.of(names)
    if not names:
        return faults
    known = {name: faults.rows(name) for name in names}
    numbers = source.numbers(np.arange(len(source.dataset)))
    checks = {role: _check(source, column) for role, column in columns.items()}
    with progress("checking", len(source.dataset)) as seen:
        for start, cells in scan(source.dataset, names):
            for role, column in columns.items():
                for at, cell in enumerate(cells[column.name], start=start):
                    if column.sparse and is_empty(cell):
                        continue
                    problem = _missing(cell) or checks[role](cell)
                    if problem is not None and numbers[at] not in known[column.name]:
                        reason, message = problem
                        faults.add(
                            int(numbers[at]), column.name, reason, message + _file(source, at, message)
                        )
            seen.advance(len(cells[names[0]]))
    return faults


def _file(source: Source, at: int, message: str) -> str:
    """Names the file of a row where every row is one (folders of texts or pictures)."""
    if "file" not in source.dataset.column_names:
        return ""
    file = source.dataset[at]["file"]
    return "" if str(file) in message else f" (file {file})"


def _missing(cell: Any) -> Problem | None:
    return ("an empty cell", "the cell is empty") if cell is None else None


def _check(source: Source, column: Column) -> Callable[[Any], Problem | None]:
    if column.kind is Text:
        return _text_problem
    if column.kind is Image:
        return lambda cell: _image_problem(cell, source.folder)
    if column.kind is Audio:
        return lambda cell: _sound_problem(cell, source.folder)
    if column.kind is Vector:
        width = _usual_width(source, column)
        return lambda cell: _vector_problem(cell, column, width)
    if column.kind is Links:
        return lambda cell: _links_problem(cell, column, len(source.dataset))
    return lambda cell: _plain_problem(cell, column)


def _text_problem(cell: Any) -> Problem | None:
    if not isinstance(cell, str):
        return "no text", f"holds {shown(cell)}, which is not text"
    return None if cell.strip() else ("empty text", f"the text is empty ({shown(cell)})")


def _image_problem(cell: Any, folder: Path | None) -> Problem | None:
    try:
        open_image(cell, folder)
    except ValueError as broken:
        return "an unreadable picture", str(broken)
    return None


def _sound_problem(cell: Any, folder: Path | None) -> Problem | None:
    try:
        sound = open_sound(cell, folder)
    except ValueError as broken:
        return "an unreadable sound", str(broken)
    if sound.seconds >= SHORTEST:
        return None
    return (
        "a sound that is too short",
        f"the sound lasts {1000 * sound.seconds:.0f} ms, less than one frame ({1000 * SHORTEST:.0f} ms)",
    )


def _usual_width(source: Source, column: Column) -> int:
    """The most frequent length among the first rows that hold one."""
    lengths: Counter[int] = Counter()
    for cell in first_cells(source.dataset, column.name):
        try:
            lengths[len(column.decode(cell))] += 1
        except ValueError:
            continue
    lengths.pop(0, None)
    return lengths.most_common(1)[0][0] if lengths else 0


def _vector_problem(cell: Any, column: Column, width: int) -> Problem | None:
    try:
        vector = column.decode(cell)
    except ValueError as broken:
        return "no vector", f"holds {shown(cell)}: {broken}"
    if len(vector) != width or not width:
        return (
            "a vector of another length",
            f"the vector has {len(vector)} numbers where the others have {width}",
        )
    finite = np.isfinite(vector)
    if finite.all():
        return None
    at = int(np.argmin(finite))
    return "a number that is not finite", f"position {at + 1} of the vector is {vector[at]}"


def _links_problem(cell: Any, column: Column, rows: int) -> Problem | None:
    try:
        links = column.decode(cell)
    except ValueError as broken:
        return "no links", f"holds {shown(cell)}: {broken}"
    outside = links[(links < 0) | (links >= rows)]
    if len(outside):
        return (
            "a link to no row",
            f"links to row number {outside[0]}, but the row numbers of links go from 0 to {rows - 1}",
        )
    if len(np.unique(links)) < len(links):
        return "a repeated link", "links to one row twice: name each neighbour once"
    return None


def _plain_problem(cell: Any, column: Column) -> Problem | None:
    word = column.kind.name
    if isinstance(cell, str) and not cell.strip():
        return "an empty cell", "the cell is empty"
    try:
        value = column.decode(cell)
    except (ValueError, KeyError) as broken:
        why = f": {broken}" if column.kind is Label and isinstance(broken, ValueError) else ""
        return f"no {word}", f"holds {shown(cell)}, which is not a {word}{why}"
    if column.kind is Number and not np.isfinite(value):
        return "a number that is not finite", f"holds {shown(cell)}, which is not a finite number"
    return None


def require_labels(table: Table, role: str = "label") -> None:
    """Refuse a table whose labels cannot tell anything apart.

    Raises:
        TableError: all rows have one label, or no two rows share one.
    """
    counts = Counter(table.column(role))
    column = table.role_columns[role]
    if len(counts) < 2:
        name = table.label_names[role][next(iter(counts))]
        raise TableError(
            f"{table.name}, column {column!r}: all {len(table):,} rows have the label {name!r}; "
            f"at least two labels are needed (another column: --column {role}=NAME)"
        )
    if len(counts) == len(table):
        raise TableError(
            f"{table.name}, column {column!r}: each of the {len(table):,} rows has its own label, so "
            f"that no two belong together (another column: --column {role}=NAME)"
        )


def require_positives(table: Table) -> None:
    """Refuse a table with hard negatives but no positives, for a method that contrasts the two.

    Raises:
        TableError: a column is read as negative, and none as positive.
    """
    if "negative" in table.role_columns and "positive" not in table.role_columns:
        column = table.role_columns["negative"]
        raise TableError(
            f"{table.name}, column {column!r} is read as negative, but no column as positive, which this method needs "
            f"beside it: name one with --column positive=NAME, or leave {column!r} out of the table"
        )


def require_sounds(table: Table, role: str, problem: Callable[[int, Sound], str | None]) -> None:
    """Refuse a table with a sound that a method cannot use.

    Args:
        table: its rows are decoded once, in order.
        role: of the sounds.
        problem: (index of a row, its sound) -> what is wrong with it and what to do, or None.

    Raises:
        TableError: names the row, the column and the problem.
    """
    for start in range(0, len(table), FEW_SOUNDS):
        rows = range(start, min(start + FEW_SOUNDS, len(table)))
        for at, sound in zip(rows, table.rows(rows)[role], strict=True):
            if (wrong := problem(at, sound)) is not None:
                raise TableError(
                    f"{table.name}, row {table.row_numbers([at])[0]}, column {table.role_columns[role]!r}: {wrong}"
                )


def require_rows(table: Table, batch_size: int) -> None:
    """Refuse a table that does not fill one batch.

    Raises:
        TableError: fewer rows than `batch_size`.
    """
    if len(table) < batch_size:
        raise TableError(
            f"{table.name} has {len(table):,} rows, fewer than one batch of {batch_size:,}: "
            f"add rows, or pass --batch-size {len(table)} or less"
        )
