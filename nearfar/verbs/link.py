"""`link`: which row of a second table is the same thing as a row of the first, if any is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import TableError
from nearfar.measures.linkage import LinkageMetrics, linkage_metrics
from nearfar.report.tables import number
from nearfar.report.tables import table as aligned
from nearfar.search.linkage import Links, link_nearest, link_threshold
from nearfar.search.records import encode_table
from nearfar.space import Space
from nearfar.verbs.writing import check_out, write_rows

SHOWN = 10
"""Rows that are printed for people: those whose score is closest to the threshold."""


@dataclass(frozen=True)
class Linkage:
    """Every row of a table with the nearest row of another one.

    Attributes:
        left: numbers of the first table's rows as the file counts them [N].
        nearest: number of the second table's nearest row [N].
        scores: how near that is [N]; higher is nearer.
        threshold: a pair is linked where its score reaches it; None links every row to its nearest.
        known: how well the links match the pairs that are known; None without such pairs. Where the threshold
            was tuned on these, they flatter it.
        tuned: whether the threshold was tuned on the known pairs.
    """

    left: list[int]
    nearest: list[int]
    scores: np.ndarray
    threshold: float | None
    known: LinkageMetrics | None = None
    tuned: bool = False

    @property
    def right(self) -> list[int | None]:
        """The row that each row is linked to, or None."""
        return [
            row if self.threshold is None or score >= self.threshold else None
            for row, score in zip(self.nearest, self.scores.tolist(), strict=True)
        ]


def link(
    space: Space | Path | str,
    left: Table | Path | str,
    right: Table | Path | str,
    *,
    out: Path | str | None = None,
    threshold: float | None = None,
    known: Table | Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    batch_size: int = 64,
    overwrite: bool = False,
) -> Linkage:
    """Link every row of a table to its nearest row of another one, or to none where that is not near enough.

    A row is read from all its columns that the space reads: picture and text together, where it has both.

    Args:
        space: a space or its folder.
        left: the table whose rows are linked, or its source.
        right: the table that they are linked to, or its source.
        out: a .csv, .jsonl or .parquet file for left, right (empty: no match), score and nearest, one line a row;
            None writes none.
        threshold: lowest score of a link. None: tuned on `known`, or without it every row is linked.
        known: a file like `out` with pairs that are known to be right: columns left and right, numbers of rows; an
            empty right says that the row has no match.
        columns: role -> column, where names do not tell; for both tables.
        on_bad_row: "error" or "skip".
        batch_size: cells encoded at once.
        overwrite: replace `out` where it exists.

    Raises:
        ArgumentError: a table has nothing that the space reads, or `out` has another suffix.
        TableError: `known` names a row that is not there.
        ArtefactError: `out` exists already.
    """
    check_out(out, overwrite)
    if not isinstance(space, Space):
        space = Space.load(space)
    tables = [
        table if isinstance(table, Table) else read_table(str(table), columns=columns, on_bad_row=on_bad_row)
        for table in (left, right)
    ]
    numbers = [table.row_numbers(range(len(table))) for table in tables]
    pairs = None if known is None else _known_pairs(known, numbers)
    queries, targets = (encode_table(space, table, batch_size=batch_size) for table in tables)
    links = link_nearest(queries, targets, space.geometry)
    tuned, measured = threshold is None and pairs is not None, None
    if pairs is not None:
        asked = np.array(list(pairs))
        answers = Links(links.nearest[asked], links.scores[asked])
        matches = list(pairs.values())
        if threshold is None:
            right_ones = [near in true for near, true in zip(answers.nearest.tolist(), matches, strict=True)]
            threshold = link_threshold(answers, right_ones, sum(map(len, matches)))
        measured = linkage_metrics(answers.at(threshold), matches)
    nearest = [numbers[1][row] for row in links.nearest.tolist()]
    found = Linkage(numbers[0], nearest, links.scores, threshold, measured, tuned)
    if out is not None:
        columns_out = {"left": found.left, "right": found.right, "score": found.scores.tolist()}
        write_rows(out, {**columns_out, "nearest": found.nearest})
    return found


def _known_pairs(source: Table | Path | str, numbers: list[list[int]]) -> dict[int, set[int]]:
    """Position of a left row -> positions of its matches, empty where it is known to have none."""
    table = source if isinstance(source, Table) else read_table(str(source), reads={})
    places = [{number: place for place, number in enumerate(rows)} for rows in numbers]
    found: dict[int, set[int]] = {}
    cells = zip(table.raw_cells("left"), table.raw_cells("right"), strict=True)
    for line, (one, two) in enumerate(cells, start=1):
        row = _place(table.name, line, "left", one, places[0])
        matches = found.setdefault(row, set())
        if two not in (None, ""):
            matches.add(_place(table.name, line, "right", two, places[1]))
    if not any(found.values()):
        raise TableError(f"{table.name} names no pair: right is empty in every row")
    return found


def _place(name: str, line: int, column: str, cell: Any, places: Mapping[int, int]) -> int:
    try:
        return places[int(cell)]
    except (KeyError, ValueError, TypeError):
        raise TableError(
            f"{name}, row {line}, column {column!r}: {cell!r} is the number of no row that was read from the "
            f"{column} table; rows count from 1"
        ) from None


def as_text(found: Linkage) -> str:
    """The result for people: how many rows are linked, and which are the least certain."""
    linked = sum(row is not None for row in found.right)
    where = "no threshold: every row is linked to its nearest"
    if found.threshold is not None:
        where = f"score at least {number(found.threshold)}{', tuned on known pairs' if found.tuned else ''}"
    margin = found.scores if found.threshold is None else np.abs(found.scores - found.threshold)
    order = np.argsort(margin, kind="stable")[:SHOWN]
    rows = [
        [
            f"{found.left[i]:,}",
            f"{found.nearest[i]:,}",
            number(found.scores[i]),
            "no" if found.right[i] is None else "yes",
        ]
        for i in order
    ]
    lines = [
        f"{linked:,} of {len(found.left):,} rows are linked ({where}); the least certain:",
        "",
        aligned(["left", "nearest", "score", "linked"], rows, right=0),
    ]
    if found.known is not None:
        k = found.known
        told = "the pairs it was tuned on" if found.tuned else "known pairs"
        lines += [
            "",
            f"on {told}: precision {k.precision:.4f}, recall {k.recall:.4f}, F1 {k.f1:.4f}, answered rightly "
            f"{k.accuracy:.4f} ({k.n:,} rows)",
        ]
    return "\n".join(lines)


def as_json(found: Linkage) -> dict[str, object]:
    """The result for machines."""
    return {
        "left": found.left,
        "right": found.right,
        "scores": found.scores.tolist(),
        "nearest": found.nearest,
        "threshold": found.threshold,
        "tuned": found.tuned,
        "known": None if found.known is None else vars(found.known),
    }
