"""A graph from two tables: its nodes, and its edges, which become columns of links."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from nearfar.data.arrow import BATCH_ROWS
from nearfar.data.columns import class_name
from nearfar.data.faults import shown
from nearfar.data.source import Content
from nearfar.errors import TableError

IDS = ("id", "node_id", "node", "_id")
"""Columns by which edges can name nodes; without one they name them by row number, from 0."""
LINKS = "links"
"""The column of links; with relations there is one for each, `links:NAME`."""


def read_graph(nodes: tuple[Path, Content], edges: tuple[Path, Content]) -> Content:
    """The columns of the nodes, and one of links for each relation: the row numbers of a node's neighbours.

    An edge is read in both directions. One of a node with itself and one that is there already are left out and
    counted.

    Args:
        nodes: the file and what its reader made of it.
        edges: the same, with the columns `source`, `target` and, optionally, `relation`.

    Raises:
        TableError: an id is missing, twice among the nodes or unknown among the edges, a column is missing, or
            a row of either file is broken; names file, row and column.
    """
    rows, table = _whole(*nodes), _whole(*edges)
    where = edges[0]
    for column in ("source", "target"):
        if column not in table.column_names:
            raise TableError(
                f"{where} has no column {column!r}: edges have the columns source and target (and relation, where "
                f"there are several kinds); the columns are {', '.join(table.column_names)}"
            )
    number_of, named_by = _numbering(rows, nodes[0])
    ends = [_ends(table, column, number_of, where, named_by) for column in ("source", "target")]
    relations: list[tuple[str, np.ndarray]] = [(LINKS, np.ones(len(table), dtype=bool))]
    if "relation" in table.column_names:
        names, codes = _names(table, "relation", where)
        relations = [(f"{LINKS}:{name}", codes == code) for code, name in enumerate(names)]
    notes = [*nodes[1].notes, named_by]
    if unread := [name for name in table.column_names if name not in ("source", "target", "relation")]:
        notes.append(f"columns of {where.name} that are not read: {', '.join(unread)}")
    for column, chosen in relations:
        if column in rows.column_names:
            raise TableError(f"{nodes[0]} has a column {column!r}, which the edges are read into: rename it")
        links, note = _links(ends[0][chosen], ends[1][chosen], len(rows))
        rows = rows.append_column(column, links)
        notes.append(f"{column}: {note}")
    rows = rows.combine_chunks()
    return Content(
        rows.schema,
        iter(rows.to_batches(BATCH_ROWS)),
        nodes[1].faults,
        notes,
        [column for column, _ in relations],
    )


def _whole(file: Path, content: Content) -> pa.Table:
    batches = list(content.batches)
    content.faults.of(()).raise_first(str(file))  # a row that is not there would shift the numbers of others
    # Metadata about the columns of the file would not know those that are added.
    table = pa.Table.from_batches(batches, schema=content.schema).replace_schema_metadata(None)
    if not len(table):
        raise TableError(f"{file} has no rows")
    return table


def _numbering(nodes: pa.Table, file: Path) -> tuple[dict[str, int], str]:
    """Name of a node -> its row number, and a note on what names it."""
    column = next((name for wanted in IDS for name in nodes.column_names if name.lower() == wanted), None)
    if column is None:
        numbers = {str(row): row for row in range(len(nodes))}
        return numbers, f"edges name nodes by row number, 0 to {len(nodes) - 1} (no column id)"
    names, codes = _names(nodes, column, file)
    if len(names) < len(nodes):
        row = int(np.flatnonzero(np.bincount(codes)[codes] > 1)[1])
        raise TableError(
            f"{file}, row {row + 1}, column {column!r}: {shown(names[codes[row]])} is the id of another row too"
        )
    return {names[code]: row for row, code in enumerate(codes)}, f"edges name nodes by the column {column!r}"


def _names(table: pa.Table, column: str, file: Path) -> tuple[list[str], np.ndarray]:
    """The different names in a column, and for each row the place of its name among them."""
    cells = table.column(column).combine_chunks()
    if cells.null_count:
        row = int(np.flatnonzero(cells.is_null())[0]) + 1
        raise TableError(f"{file}, row {row}, column {column!r}: the cell is empty")
    coded = cells.dictionary_encode()
    try:
        written = [class_name(cell) for cell in coded.dictionary.to_pylist()]
    except ValueError:
        raise TableError(f"{file}, column {column!r}: holds numbers that are not whole") from None
    names = list(dict.fromkeys(written))  # "7" and " 7" are one name
    place = {name: at for at, name in enumerate(names)}
    return names, np.array([place[name] for name in written])[coded.indices.to_numpy()]


def _ends(edges: pa.Table, column: str, number_of: dict[str, int], file: Path, named_by: str) -> np.ndarray:
    names, codes = _names(edges, column, file)
    numbers = np.array([number_of.get(name, -1) for name in names])[codes]
    if len(unknown := np.flatnonzero(numbers < 0)):
        raise TableError(
            f"{file}, row {unknown[0] + 1}, column {column!r}: {shown(names[codes[unknown[0]]])} is no node "
            f"({named_by}). {len(unknown):,} rows are like this: add their nodes, or leave out these edges"
        )
    return numbers


def _links(one: np.ndarray, two: np.ndarray, n: int) -> tuple[pa.Array, str]:
    """The neighbours of each of `n` nodes, sorted, and a note that counts."""
    loops = one == two
    pairs = np.unique(np.minimum(one, two)[~loops] * n + np.maximum(one, two)[~loops])
    low, high = np.divmod(pairs, n)
    ends, others = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((others, ends))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=n))])
    links = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(others[order], pa.int64()))
    note = f"{len(pairs):,} links, both ways"
    repeated = int((~loops).sum()) - len(pairs)
    left_out = [f"{int(loops.sum()):,} of a node with itself"] * bool(loops.any())
    left_out += [f"{repeated:,} that repeat another"] * bool(repeated)
    alone = n - len(np.unique(ends))
    note += f"; left out: {' and '.join(left_out)}" if left_out else ""
    return links, note + (f"; {alone:,} nodes without any" if alone else "")
