"""Bad rows: collected by reason while a table is read and checked, then refused or left out."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from nearfar.errors import TableError

OnBadRow = Literal["error", "skip"]

SHOWN_ROWS = 5
"""How many row numbers a note names for each reason."""


def shown(value: Any, limit: int = 40) -> str:
    """`value` as a message quotes it: one line, at most about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Faults:
    """What is wrong with which rows.

    A fault of a whole row has column None: such a row is not in the table at all. Rows are numbered
    from 1, as the user counts them (a header is not a row).
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str | None, str], list[int]] = {}
        self._first: dict[tuple[str | None, str], str] = {}

    def add(self, row: int, column: str | None, reason: str, message: str) -> None:
        """Count `row` under `reason`; `message` is kept for the first row of each reason only."""
        self._rows.setdefault((column, reason), []).append(row)
        self._first.setdefault((column, reason), message)

    def rows(self, column: str | None) -> set[int]:
        """The rows at fault in one column (None: faults of whole rows)."""
        return {row for (at, _), rows in self._rows.items() if at == column for row in rows}

    def of(self, columns: Collection[str]) -> Faults:
        """The faults of whole rows and of these columns; others do not matter to the reader."""
        kept = Faults()
        for key, rows in self._rows.items():
            if key[0] is None or key[0] in columns:
                kept._rows[key], kept._first[key] = list(rows), self._first[key]
        return kept

    def to_json(self) -> list[dict[str, Any]]:
        """As plain lists and dictionaries."""
        return [
            {"column": column, "reason": reason, "rows": rows, "first": self._first[column, reason]}
            for (column, reason), rows in self._rows.items()
        ]

    @classmethod
    def from_json(cls, entries: list[dict[str, Any]]) -> Faults:
        """The inverse of `to_json`."""
        faults = cls()
        for entry in entries:
            key = entry["column"], entry["reason"]
            faults._rows[key], faults._first[key] = entry["rows"], entry["first"]
        return faults

    def all_rows(self) -> np.ndarray:
        """Sorted numbers of all rows at fault, [K] int64."""
        return np.unique(np.array([row for rows in self._rows.values() for row in rows], dtype=np.int64))

    def summary(self) -> str:
        """Counts by reason, with the first row numbers."""
        parts = []
        for (column, reason), rows in self._rows.items():
            numbers = ", ".join(map(str, rows[:SHOWN_ROWS])) + (", ..." if len(rows) > SHOWN_ROWS else "")
            where = f" in column {column!r}" if column is not None else ""
            parts.append(f"{len(rows)} with {reason}{where} (row{'s' * (len(rows) > 1)} {numbers})")
        return "; ".join(parts)

    def raise_first(self, name: str) -> None:
        """Raise for the first row at fault, if there is one.

        Raises:
            TableError: names the file, row and column, counts the other bad rows and says how to
                leave them out.
        """
        if not self._rows:
            return
        column, reason = min(self._rows, key=lambda key: self._rows[key][0])
        where = f", column {column!r}" if column is not None else ""
        message = f"{name}, row {self._rows[column, reason][0]}{where}: {self._first[column, reason]}"
        others = len(self.all_rows()) - 1
        if others:
            are = "other row is" if others == 1 else "other rows are"
            message += f". {others:,} {are} bad too ({self.summary()})"
        it = "them" if others else "it"
        raise TableError(f"{message}. Correct {it}, or leave {it} out with --on-bad-row skip")


def settle(faults: Faults, name: str, on_bad_row: OnBadRow) -> tuple[np.ndarray, list[str]]:
    """Refuse bad rows, or say which to leave out.

    Returns:
        The sorted numbers of the rows to leave out, [K] int64, and the notes that count them.

    Raises:
        TableError: there is a bad row and `on_bad_row` is "error".
    """
    if on_bad_row == "error":
        faults.raise_first(name)
    bad = faults.all_rows()
    if not len(bad):
        return bad, []
    return bad, [f"{len(bad):,} row{'s' * (len(bad) > 1)} left out: {faults.summary()}"]
