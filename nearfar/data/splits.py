"""Train and test sides that share nothing: groups, marked rows and exact duplicates stay together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.faults import shown
from nearfar.data.kinds import ENCODED, Node
from nearfar.errors import ArgumentError, TableError

if TYPE_CHECKING:
    from nearfar.data.table import Table

TRAIN_NAMES = frozenset({"train", "training"})
TEST_NAMES = (frozenset({"test", "testing"}), frozenset({"validation", "valid", "val", "dev", "eval"}))
"""Names of the side to measure on: the first set that occurs in the table is used."""


def grouped_split(ids: Sequence[Any] | np.ndarray, fractions: Sequence[float], seed: int) -> list[np.ndarray]:
    """Split rows at random so that rows with one id are on one side.

    Groups are drawn in random order, and each goes to the side that lacks most rows.

    Args:
        ids: the group of each of N rows (hashable values).
        fractions: the share of each side, positive, summing to 1.
        seed: the same seed gives the same split.

    Returns:
        Sorted row indices of each side, int64.

    Raises:
        ArgumentError: the fractions are not shares.
        TableError: a side would be empty.
    """
    if min(fractions, default=0) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ArgumentError(f"fractions are {list(fractions)}; they must be positive and sum to 1")
    numbering: dict[Any, int] = {}
    group = np.array([numbering.setdefault(value, len(numbering)) for value in ids], dtype=np.int64)
    sizes = np.bincount(group, minlength=len(numbering)).tolist()
    lacking = [fraction * len(group) for fraction in fractions]
    side = np.zeros(len(sizes), dtype=np.int64)
    for at in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        side[at] = chosen = max(range(len(lacking)), key=lacking.__getitem__)
        lacking[chosen] -= sizes[at]
    sides = [np.flatnonzero(side[group] == number) for number in range(len(fractions))]
    for fraction, rows in zip(fractions, sides, strict=True):
        if not len(rows):
            raise TableError(
                f"{len(group):,} rows in {len(sizes):,} groups cannot be split: the side of {fraction:.3g} "
                "would be empty. Add rows, or ask for a larger share"
            )
    return sides


def holdout(
    table: Table, fraction: float, seed: int, limit: int = 2000, together: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to measure on.

    A column `split` decides where there is one: rows marked test, or else validation or dev, are
    measured on, all of them. Otherwise rows are drawn; those with the same cell of the role `together`, or
    else with the same example (text, picture or vector of the first such role), stay together, but for nodes: no two
    of a graph are the same.

    Args:
        table: the table.
        fraction: the share to measure on, in (0, 1), where rows are drawn.
        seed: of the drawing.
        limit: the most rows to measure on, where they are drawn; the rest is trained on.
        together: a role, if the table has it.

    Returns:
        Sorted indices of train and test rows, int64.

    Raises:
        TableError: a row is marked with an unknown name, or a side would be empty.
        ArgumentError: `fraction` or `limit` is no such number.
    """
    if not 0 < fraction < 1 or limit < 1:
        raise ArgumentError(
            f"fraction is {fraction} and limit {limit}; they must be in (0, 1) and at least 1"
        )
    column = table.role_columns.get("split", "split")
    if column in table.raw_columns:
        train, test = _marked(table, column)
        if len(test):
            return train, test
        table.notes.append(f"column {column!r} marks train rows only: rows to measure on are drawn from them")
    share = min(fraction, limit / len(table))
    groups: Sequence[Any]
    if together in table.kinds:
        groups = list(table.cell_bytes(together))
    else:
        groups = range(len(table)) if Node in table.kinds.values() else _contents(table)
    train, test = grouped_split(groups, [1 - share, share], seed)
    return train, test


def _marked(table: Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    cells = table.raw_cells(column)
    classes = getattr(table.dataset.features[column], "names", None)
    if classes is not None:
        cells = [None if cell is None else classes[cell] for cell in cells]
    marks = np.array(["" if cell is None else str(cell).strip().lower() for cell in cells])
    known = TRAIN_NAMES.union(*TEST_NAMES)
    unknown = np.flatnonzero(~np.isin(marks, sorted(known)))
    if len(unknown):
        row = table.row_numbers(unknown[:1])[0]
        raise TableError(
            f"{table.name}, row {row}, column {column!r}: holds {shown(cells[unknown[0]])}, which is no "
            f"side of a split; the names are {', '.join(sorted(known))} (or rename the column)"
        )
    train = np.flatnonzero(np.isin(marks, sorted(TRAIN_NAMES)))
    sides = [np.flatnonzero(np.isin(marks, sorted(names))) for names in TEST_NAMES]
    test = next((rows for rows in sides if len(rows)), sides[0])
    if not len(train):
        raise TableError(f"{table.name}, column {column!r}: no row is marked 'train'")
    return train, test


def _contents(table: Table) -> list[bytes]:
    """A digest of each row's cell in the first role that holds an example, not a label or a score."""
    role = next((role for role, kind in table.kinds.items() if kind in ENCODED), next(iter(table.kinds)))
    return [hashlib.blake2b(cell, digest_size=16).digest() for cell in table.cell_bytes(role)]
