"""`search`: the rows of a table that are nearest to a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.kinds import Audio, Image, Node
from nearfar.data.media import open_sound
from nearfar.data.sound import starts_like_sound
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError, TableError
from nearfar.search.cached import cached_index
from nearfar.search.index import Index
from nearfar.search.set_query import parse_set_query
from nearfar.search.sets import series_of_index
from nearfar.search.sparse import SparseIndex
from nearfar.space import Space


@dataclass(frozen=True)
class Hit:
    """One answer: the number of its row as the file counts, the score, and the row's cells by role."""

    row: int
    score: float
    cells: dict[str, Any]


def search_table(
    space: Space | Path | str,
    table: Table | Path | str,
    queries: Sequence[Any],
    *,
    sets: Mapping[str, str] | Mapping[str, Path | Sequence[Any]] | None = None,
    k: int = 5,
    role: str | None = None,
    modality: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    folder: Path | str | None = None,
) -> list[list[Hit]]:
    """Answer each query with the k nearest rows, best first.

    The index is built once and kept; it is built anew when the space or the table has changed.

    Args:
        space: a space or its folder.
        table: a table or its source.
        queries: raw examples of the query's modality (texts, pictures or sounds or names of their files,
            vectors; for nodes, numbers of the table's rows); with sets, sentences such as "near A and B without C".
        sets: name -> examples of what it means: a table's source, such as a text file of one a line, or a list.
        k: answers for each query.
        role: the column searched; None takes `positive` where there is one, else the first readable one.
        modality: what reads the queries or the examples of the sets, and the column where it can; None tells it by
            their type.
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        folder: where indexes are kept; None means `indexes` inside the space's folder.

    Raises:
        ArgumentError: the space cannot read the column, the queries or the sets; there is no query; or a query
            is none of the language of sets (the character is named).
        TableError: the table or the file of a set is wrong.
    """
    if isinstance(queries, str) or not len(queries):
        raise ArgumentError("queries must be a list with at least one example: give [query]")
    if not isinstance(space, Space):
        folder = (
            Path(space) / "indexes" if folder is None and (Path(space) / "space.json").exists() else folder
        )
        space = Space.load(space)
    if not isinstance(table, Table):
        table = read_table(str(table), columns=columns, on_bad_row=on_bad_row)
    role = role or _searched(space, table)
    index = cached_index(space, table, role, folder, modality)
    if sets is None:
        scores, ids = index.search(
            _encoded(space, [_node(space, table, query) for query in queries], modality), k
        )
    else:
        scores, ids = _by_sets(space, index, queries, sets, k, modality, on_bad_row)
    answers = []
    for row_scores, row_ids in zip(scores, ids, strict=True):
        cells = _by_name(table, table.rows(row_ids))
        numbers = table.row_numbers(row_ids)
        answers.append(
            [
                Hit(
                    int(numbers[i]), float(row_scores[i]), {name: column[i] for name, column in cells.items()}
                )
                for i in range(len(row_ids))
            ]
        )
    return answers


def _encoded(space: Space, examples: Sequence[Any], modality: str | None) -> np.ndarray:
    """Embeddings of raw examples, of which those that name a picture or a sound stand for it."""
    examples = [_opened(space, example) for example in examples]
    return space.encode(examples, modality or _modality_of(space, examples[0]))


def _by_sets(
    space: Space,
    index: Index | SparseIndex,
    queries: Sequence[Any],
    sets: Mapping[str, Any],
    k: int,
    modality: str | None,
    on_bad_row: OnBadRow,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, k], each query a sentence about sets."""
    asked = [parse_set_query(query, sets) for query in queries]
    if unused := [name for name in sets if not any(name in (*q.near, *q.without) for q in asked)]:
        raise ArgumentError(f"no query names the set {unused[0]!r}: leave it out, or ask for it")
    found = {name: _members(space, name, source, modality, on_bad_row) for name, source in sets.items()}
    answers = [
        series_of_index(index, [found[n] for n in query.near], [found[n] for n in query.without], k)
        for query in asked
    ]
    return np.stack([scores for scores, _ in answers]), np.stack([ids for _, ids in answers])


def _members(space: Space, name: str, source: Any, modality: str | None, on_bad_row: OnBadRow) -> np.ndarray:
    """Embeddings of the examples of a set."""
    if isinstance(source, (str, Path)):
        try:
            examples = read_table(str(source), on_bad_row=on_bad_row)
        except TableError as wrong:
            raise TableError(f"set {name!r}: {wrong}") from None
        source = examples.column(_readable(space, examples)[0])
    if not len(source):
        raise ArgumentError(f"the set {name!r} has no examples: give it at least one")
    return _encoded(space, source, modality)


def _modality_of(space: Space, query: Any) -> str:
    """What reads a query, by what the query is."""
    for name, encoder in space.encoders.items():
        if encoder.kind.holds(query):
            return name
    kinds = " or ".join(sorted({encoder.kind.name for encoder in space.encoders.values()}))
    hints = {
        "image": "; give the name of a picture file",
        "audio": "; give the name of a sound file",
        "node": "; give the number of a row",
    }
    hint = hints.get(kinds, "")
    raise ArgumentError(f"this space reads {kinds}; it cannot read the query {str(query)[:60]!r}{hint}")


def _opened(space: Space, query: Any) -> Any:
    """The picture or sound behind a query that names a file, where the space reads such; else the query itself."""
    kinds = {encoder.kind for encoder in space.encoders.values()} & {Image, Audio}
    if not (isinstance(query, (str, Path)) and kinds and Path(query).is_file()):
        return query
    if Audio in kinds and (Image not in kinds or starts_like_sound(_start_of(query))):
        try:
            return open_sound(str(query), None)
        except ValueError as broken:
            raise ArgumentError(f"query {str(query)!r} is no sound that can be read: {broken}") from None
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        return Pillow.open(query).convert("RGB")
    except (UnidentifiedImageError, OSError) as broken:
        raise ArgumentError(f"query {str(query)!r} is no picture that can be read: {broken}") from None


def _start_of(file: str | Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(16)


def _node(space: Space, table: Table, query: Any) -> Any:
    """The node that a query names by its row, where the space reads nodes; else the query itself."""
    reads_nodes = any(encoder.kind is Node for encoder in space.encoders.values())
    if not (reads_nodes and Node in table.kinds.values() and str(query).isdecimal()):
        return query
    numbers = table.row_numbers(range(len(table)))
    if int(query) not in numbers:
        raise ArgumentError(
            f"{table.name} has no row {query}: name a node by its row, {numbers[0]} to {numbers[-1]}"
        )
    return table.rows([numbers.index(int(query))])["node"][0]


def _by_name(table: Table, cells: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The same cells with labels as their names, and without nodes, which the other cells make up."""
    names = table.label_names
    return {
        role: [names[role][cell] for cell in column] if role in names else column
        for role, column in cells.items()
        if table.kinds[role] is not Node
    }


def _searched(space: Space, table: Table) -> str:
    readable = _readable(space, table)
    return "positive" if "positive" in readable else readable[0]


def _readable(space: Space, table: Table) -> list[str]:
    """The columns that the space can read; there is at least one."""
    kinds = {encoder.kind for encoder in space.encoders.values()}
    readable = [role for role, kind in table.kinds.items() if kind in kinds]
    if not readable:
        raise ArgumentError(
            f"the space encodes {', '.join(space.modalities)}; {table.name} has no such column"
        )
    return readable
