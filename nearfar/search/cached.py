"""An index of a table that is built once and kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, read_json
from nearfar.search.index import Geometry, Index, searchable, write_index

if TYPE_CHECKING:
    from nearfar.data.table import Table
    from nearfar.space import Space

_BLOCK = 8192
"""Rows whose raw cells are in memory together while a table is encoded."""


def cached_index(space: Space, table: Table, role: str, folder: Path | str | None) -> Index:
    """The index of one role of a table, built only if neither space nor table is as it was.

    It is kept in a folder inside `folder` whose name holds the fingerprints of both. When it is built
    anew, those of the same table name and role that were made from other contents are removed.

    Args:
        space: encodes the cells.
        table: its rows are numbered from 0 in the answers.
        role: which column.
        folder: where indexes are kept; None keeps nothing.

    Raises:
        ArgumentError: the table has no such role, or the space cannot read it or gives rows that cannot
            be searched.
    """
    if role not in table.kinds:
        raise ArgumentError(f"{table.name} has no role {role!r}; it has {', '.join(table.kinds)}")
    geometry = cast(Geometry, space.geometry)
    if folder is None:
        return Index.of_searchable(np.concatenate(list(_embedded(space, table, role))), geometry)
    made_from = {"table": table.name, "role": role, "rows": table.fingerprint, "space": space.fingerprint}
    short = re.sub(r"[^A-Za-z0-9]+", "-", Path(table.name).name).strip("-")[:40] or "table"
    place = Path(folder) / f"{short}-{role}-{made_from['rows']}-{made_from['space']}"
    kept = _kept(place, made_from, len(table))
    if kept is not None:
        return kept
    with atomic_folder(place, replace=True) as temporary:
        write_index(temporary, _embedded(space, table, role), len(table), geometry, made_from)
    _remove_stale(Path(folder), place, made_from)
    return Index.load(place)


def _kept(place: Path, made_from: dict[str, str], n_rows: int) -> Index | None:
    if not place.exists():
        return None
    try:
        index = Index.load(place)
    except ArtefactError:  # damaged or of an older format: it is built anew
        return None
    return index if index.made_from == made_from and len(index) == n_rows else None


def _embedded(space: Space, table: Table, role: str) -> Iterator[np.ndarray]:
    for start in range(0, len(table), _BLOCK):
        stop = min(start + _BLOCK, len(table))
        cells = table.rows(range(start, stop))[role]
        vectors = space.encode(cells, space.modality_for(role, cells[0]))
        yield searchable(
            vectors,
            cast(Geometry, space.geometry),
            f"embeddings of rows {start + 1} to {stop} of {table.name}",
        )


def _remove_stale(folder: Path, place: Path, made_from: dict[str, str]) -> None:
    for other in folder.iterdir():
        if other == place or other.name.startswith(".") or not (other / "index.json").exists():
            continue
        try:
            told: Any = read_json(other / "index.json")
        except ArtefactError:
            continue
        source = told.get("made_from", {}) if isinstance(told, dict) else {}
        if (source.get("table"), source.get("role")) == (made_from["table"], made_from["role"]):
            shutil.rmtree(other, ignore_errors=True)
