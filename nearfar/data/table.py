"""Tables: rows of typed cells, read from anywhere, checked, and kept in memory-mapped Arrow."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.checks import find_faults
from nearfar.data.columns import SCAN, Column, bind, cell_bytes, is_empty, sparse, stored_cells
from nearfar.data.faults import OnBadRow, settle
from nearfar.data.graph import Graph, GraphRows, make_graph
from nearfar.data.kinds import Kind, Links, Node, Reading, Vector, may_be_empty
from nearfar.data.opening import open_source, source_of_columns
from nearfar.data.roles import ROLES, assign, kinds_of
from nearfar.data.source import Source
from nearfar.errors import ArgumentError, TableError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["OnBadRow", "Table", "read_table"]


class Table:
    """Rows of examples whose columns play roles.

    Made by `read_table` or `Table.from_columns`. Nothing but the rows asked for is in memory.

    Attributes:
        name: what the user typed.
        notes: what was guessed, skipped and counted while reading.
    """

    def __init__(
        self,
        source: Source,
        columns: Mapping[str, Column],
        index: np.ndarray,
        notes: Sequence[str] = (),
        nodes: GraphRows | None = None,
    ) -> None:
        """`index` [N] holds the rows of `source` that are in the table, in its order."""
        self.name, self.notes = source.name, list(notes)
        self._source, self._columns, self._index = source, dict(columns), index
        self._nodes = nodes

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Sequence[Any] | np.ndarray],
        kinds: Mapping[str, Reading] | None = None,
        name: str = "memory",
    ) -> Table:
        """A table of values that Python holds already. Every column is a role of the same name.

        Args:
            columns: role -> N cells: strings, numbers, `PIL` images, vectors (or an array [N, d]).
            kinds: role -> kind, where the kind that the cells suggest is not the right one, or where cells may be
                None: `Image | Missing`.
            name: what messages call the table.

        Raises:
            TableError: columns of different lengths, or a bad cell.
        """
        source = source_of_columns(columns, name)
        kinds = kinds or {}
        reads: dict[str, Reading] = {role: kinds.get(role) or ROLES.get(role, Kind) for role in columns}
        found = kinds_of(source)
        for role, kind in found.items():
            if reads[role] is Kind:
                if kind is None:
                    raise TableError(f"{name}, column {role!r}: nested data are of no kind that can be read")
                reads[role] = kind
        return _checked(source, reads, {role: role for role in columns}, "error", found)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def dataset(self) -> Dataset:
        """All rows and columns as they were read, before `select` and skipping."""
        return self._source.dataset

    @property
    def kinds(self) -> dict[str, type[Kind]]:
        """Role -> kind of its cells."""
        kinds = {role: column.kind for role, column in self._columns.items()}
        return kinds if self._nodes is None else {**kinds, "node": Node}

    @property
    def role_columns(self) -> dict[str, str]:
        """Role -> name of its column; `node` names the columns that nodes are made of."""
        columns = {role: column.name for role, column in self._columns.items()}
        if self._nodes is None:
            return columns
        made_of = [columns[role] for role, kind in self.kinds.items() if role == "vector" or kind is Links]
        return {**columns, "node": " + ".join(made_of)}

    @property
    def label_names(self) -> dict[str, list[str]]:
        """Role -> names of its classes, for roles that hold labels; a cell is an index into them."""
        return {role: list(c.label_names) for role, c in self._columns.items() if c.label_names}

    @cached_property
    def raw_columns(self) -> dict[str, type[Kind] | None]:
        """All columns, with or without a role, and the kind that each seems to be of."""
        return kinds_of(self._source)

    def raw_cells(self, column: str) -> list[Any]:
        """All cells of a column as stored, whether or not it plays a role.

        Raises:
            TableError: there is no such column.
        """
        if column not in self.dataset.column_names:
            raise TableError(
                f"{self.name} has no column {column!r}; it has {', '.join(self.dataset.column_names)}"
            )
        return stored_cells(self.dataset, [column], self._index)[column]

    def rows(self, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """The cells of some rows: role -> cells in the order of `indices`.

        Text is `str`, an image an RGB `PIL.Image.Image`, a vector float32 [d], links int64 [degree], a label
        and an id `int`, a number `float`; an empty cell, where the role may have some, None. Only these rows are
        read; but a node (role `node`) knows its whole graph, which is in memory once it is asked for.

        Raises:
            IndexError: an index is beyond the table.
        """
        names = list(dict.fromkeys(column.name for column in self._columns.values()))
        index = self._index[np.asarray(indices, dtype=np.int64)]
        cells = stored_cells(self.dataset, names, index)
        rows = {role: [c.decode(cell) for cell in cells[c.name]] for role, c in self._columns.items()}
        return rows if self._nodes is None else {**rows, "node": self._nodes.cells(index)}

    def present(self, role: str) -> np.ndarray:
        """Which cells of a role are not empty: bool [N]. All of them, unless the role is read as `... | Missing`."""
        column = self._columns.get(role)
        if column is None or not column.sparse:
            return np.ones(len(self), dtype=bool)
        return np.array([not is_empty(cell) for cell in self._scan(column)], dtype=bool)

    def column(self, role: str) -> list[Any]:
        """All cells of one role.

        Raises:
            ArgumentError: the table has no such role.
        """
        if self._nodes is not None and role == "node":
            return self._nodes.cells(self._index)
        if role not in self._columns:
            roles = ", ".join(self.kinds)
            raise ArgumentError(f"{self.name} has no role {role!r}; it has {roles}")
        column = self._columns[role]
        return [column.decode(cell) for cell in self._scan(column)]

    def cell_bytes(self, role: str) -> Iterator[bytes]:
        """The content of each cell of one role, as bytes that are equal for equal content."""
        column = self._columns[role]
        return (cell_bytes(column, cell, self._source.folder) for cell in self._scan(column))

    def _scan(self, column: Column) -> Iterator[Any]:
        for start in range(0, len(self), SCAN):
            part = self._index[start : start + SCAN]
            yield from stored_cells(self.dataset, [column.name], part)[column.name]

    def row_numbers(self, indices: Sequence[int] | np.ndarray) -> list[int]:
        """The numbers of rows as the user counts them in the file, from 1, whatever was left out."""
        chosen = self._index[np.asarray(indices, dtype=np.int64)]
        return list(map(int, self._source.numbers(chosen)))

    def select(self, indices: Sequence[int] | np.ndarray) -> Table:
        """Some rows, in this order. Integers of labels keep their meaning.

        Nodes stay where they are in their graph: its other nodes are no rows of the new table, but still the
        neighbours of those that are.
        """
        index = self._index[np.asarray(indices, dtype=np.int64)]
        return Table(self._source, self._columns, index, self.notes, self._nodes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of roles, kinds and cells in order, as 16 hexadecimal digits: equal for equal content.

        For nodes also of the whole graph, and of which nodes they are.
        """
        digest = hashlib.sha256()
        for role in sorted(self._columns):
            digest.update(f"{role}\0{self._columns[role].kind.name}\0{len(self)}\0".encode())
            for cell in self.cell_bytes(role):
                digest.update(len(cell).to_bytes(8, "little") + cell)
        if self._nodes is not None:
            digest.update(self._nodes.graph.fingerprint.encode())
            digest.update(self._nodes.numbers(self._index).astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def read_table(
    source: str | Path | Mapping[str, Any] | Any,
    reads: Mapping[str, Reading] | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
) -> Table:
    """Read a table and check every cell that will be used.

    Args:
        source: a CSV, TSV, text, JSON-lines, Parquet, Arrow or NumPy file; a folder of pictures, of
            text files, or of `datasets.save_to_disk`; `builtin:NAME`; `env:NAME[@STEPS]`;
            `hf:NAME[:CONFIG][@SPLIT]`; or, in Python, a dictionary of columns, a pandas frame or a `datasets.Dataset`.
        reads: role -> what it accepts, from the method; None for every standard role that the table
            has by name.
        columns: role -> column, where the names do not say it.
        on_bad_row: "error" stops at bad rows; "skip" leaves them out and counts them in `notes`.

    Raises:
        TableError: the source is missing or damaged, a column is missing or of the wrong kind, or a
            cell is bad; names file, row and column.
        ArgumentError: an argument is wrong.
    """
    if on_bad_row not in ("error", "skip"):
        raise ArgumentError(f"on_bad_row is {on_bad_row!r}; it must be 'error' or 'skip'")
    opened = open_source(source)
    return _checked(opened, reads, columns or {}, on_bad_row, None)


def _checked(
    source: Source,
    reads: Mapping[str, Reading] | None,
    columns: Mapping[str, str],
    on_bad_row: OnBadRow,
    found: Mapping[str, type[Kind] | None] | None,
) -> Table:
    if not len(source.dataset):
        source.faults.raise_first(source.name)
        raise TableError(f"{source.name} has no rows")
    names, kinds, notes = assign(source, reads, columns, found or kinds_of(source))
    bound = {role: bind(source.dataset, names[role], kinds[role], source.folder) for role in names}
    bound |= {
        role: sparse(column) for role, column in bound.items() if may_be_empty((reads or {}).get(role, Kind))
    }
    faults = find_faults(source, bound)
    bad, skipped = settle(faults, source.name, on_bad_row)
    for note in skipped:  # on standard error unless the program that calls sends it elsewhere
        logging.getLogger("nearfar").warning("%s: %s", source.name, note)
    index = np.arange(len(source.dataset))
    index = index[~np.isin(source.numbers(index), bad)]
    if not len(index):
        raise TableError(f"{source.name}: no row is left; {skipped[0]}")
    if len(bad):
        bound = {role: _renumbered(c, index) if c.kind is Links else c for role, c in bound.items()}
    links = [role for role, column in bound.items() if column.kind is Links]
    nodes = None
    if links and bound.get("vector") is not None and bound["vector"].kind is Vector:
        rows = Table(source, {role: bound[role] for role in ("vector", *links)}, index)
        nodes = GraphRows(lambda: _graph(rows, links), index)
    return Table(source, bound, index, [*source.notes, *notes, *skipped], nodes)


def _renumbered(column: Column, index: np.ndarray) -> Column:
    """Links by the numbers that rows have once others are left out, and without links to those."""

    def decode(cell: Any) -> np.ndarray:
        links = column.decode(cell)
        place = np.searchsorted(index, links).clip(max=len(index) - 1)
        return place[index[place] == links]

    return replace(column, decode=decode)


def _graph(rows: Table, links: Sequence[str]) -> Graph:
    relations = {role.removeprefix("links:"): rows.column(role) for role in links}
    return make_graph(rows.column("vector"), relations)
