"""An index of a table that is built once and kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, read_json
from nearfar.search.index import Geometry, Index, searchable, write_index
from nearfar.search.sparse import INNER_PRODUCTS, SparseIndex

if TYPE_CHECKING:
    from nearfar.data.table import Table
    from nearfar.space import Space

_BLOCK = 8192
"""Rows whose raw cells are in memory together while a table is encoded."""
SPARSE_SHARE = 1 / 8
"""Embeddings with fewer entries that are not zero than this are kept as inverted lists."""


def cached_index(
    space: Space, table: Table, role: str, folder: Path | str | None, modality: str | None = None
) -> Index | SparseIndex:
    """The index of one role of a table, built only if neither space nor table is as it was.

    Where the embeddings are nearly all zeros it is a `SparseIndex`, which gives the same answers.

    It is kept in a folder inside `folder` whose name holds the fingerprints of both. When it is built
    anew, those of the same table name and role that were made from other contents are removed.

    Args:
        space: encodes the cells.
        table: its rows are numbered from 0 in the answers.
        role: which column.
        folder: where indexes are kept; None keeps nothing.
        modality: what reads the column where several modalities can; None means the first.

    Raises:
        ArgumentError: the table has no such role, or the space cannot read it or gives rows that cannot
            be searched.
    """
    if role not in table.kinds:
        raise ArgumentError(f"{table.name} has no role {role!r}; it has {', '.join(table.kinds)}")
    geometry = space.geometry
    modality = space.modality_for(role, table.rows([0])[role][0], modality)
    if folder is None:
        sparse, blocks = _looked_at(_embedded(space, table, role, modality), geometry)
        if sparse:
            return SparseIndex.of_blocks(blocks, geometry)
        return Index.of_searchable(np.concatenate(list(blocks)), geometry)
    made_from = {"table": table.name, "role": role, "rows": table.fingerprint, "space": space.fingerprint}
    made_from |= {"modality": modality}
    short = re.sub(r"[^A-Za-z0-9]+", "-", Path(table.name).name).strip("-")[:40] or "table"
    place = Path(folder) / f"{short}-{role}-{modality}-{made_from['rows']}-{made_from['space']}"
    kept = _kept(place, made_from, len(table))
    if kept is not None:
        return kept
    with atomic_folder(place, replace=True) as temporary:
        sparse, blocks = _looked_at(_embedded(space, table, role, modality), geometry)
        if sparse:
            SparseIndex.of_blocks(blocks, geometry, made_from).write(temporary)
        else:
            write_index(temporary, blocks, len(table), geometry, made_from)
    _remove_stale(Path(folder), place, made_from)
    return _loaded(place)


def _looked_at(blocks: Iterator[np.ndarray], geometry: Geometry) -> tuple[bool, Iterable[np.ndarray]]:
    """Whether inverted lists fit these embeddings, as far as the first block tells, and all blocks again."""
    first = next(blocks)
    fits = geometry in INNER_PRODUCTS and np.count_nonzero(first) < SPARSE_SHARE * first.size
    return bool(fits), chain([first], blocks)


def _loaded(place: Path) -> Index | SparseIndex:
    told: Any = read_json(place / "index.json")
    sparse = isinstance(told, dict) and told.get("kind") == "sparse"
    return SparseIndex.load(place) if sparse else Index.load(place)


def _kept(place: Path, made_from: dict[str, str], n_rows: int) -> Index | SparseIndex | None:
    if not place.exists():
        return None
    try:
        index = _loaded(place)
    except ArtefactError:  # damaged or of an older format: it is built anew
        return None
    return index if index.made_from == made_from and len(index) == n_rows else None


def _embedded(space: Space, table: Table, role: str, modality: str) -> Iterator[np.ndarray]:
    for start in range(0, len(table), _BLOCK):
        stop = min(start + _BLOCK, len(table))
        cells = table.rows(range(start, stop))[role]
        vectors = space.encode(cells, modality)
        yield searchable(
            vectors,
            space.geometry,
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
        if all(source.get(what) == made_from[what] for what in ("table", "role", "modality")):
            shutil.rmtree(other, ignore_errors=True)
