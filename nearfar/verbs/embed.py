"""`embed`: a table's vectors into a Parquet file, in constant memory, going on after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.kinds import EXAMPLES
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_file, read_json, write_json
from nearfar.progress import progress
from nearfar.space import Space

WINDOW = 8192
"""Rows encoded and written at once: what a kill can lose, and what memory must hold."""


def embed(
    space: Space | Path | str,
    table: Table | Path | str,
    out: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    batch_size: int = 64,
    overwrite: bool = False,
    modality: str | None = None,
) -> Path:
    """Write one row for each row of the table: `row` (its number), a vector for each role that the space
    reads, and the table's labels, scores and identities.

    Finished parts lie in `OUT.parts` until the file is whole; the same call goes on from them.

    Args:
        space: a space or its folder.
        table: a table or its source.
        out: the Parquet file.
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        batch_size: rows encoded at once.
        overwrite: replace `out` where it exists.
        modality: what reads a column that several modalities of the space can read; None means the first.

    Raises:
        ArtefactError: `out` exists, or its parts belong to another space or table.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise ArtefactError(f"{out} exists already: choose another file, or pass --overwrite")
    if not isinstance(space, Space):
        space = Space.load(space)
    if not isinstance(table, Table):
        table = read_table(str(table), columns=columns, on_bad_row=on_bad_row)
    roles = _readable(space, table, modality)
    parts = _parts_folder(out, space, table, roles, overwrite)
    with progress("embedding", len(table)) as shown:
        for number, start in enumerate(range(0, len(table), WINDOW)):
            part = parts / f"{number:08d}.parquet"
            rows = range(start, min(start + WINDOW, len(table)))
            if not part.exists():
                _write_part(part, space, table, rows, roles, batch_size)
            shown.advance(len(rows))
    _join(sorted(parts.glob("*.parquet")), out)
    shutil.rmtree(parts)
    return out


def _readable(space: Space, table: Table, preferred: str | None) -> dict[str, str]:
    """Role -> modality for every role of the table that the space reads."""
    kinds = {encoder.kind for encoder in space.encoders.values()}
    first = table.rows([0])
    found = {
        role: space.modality_for(role, first[role][0], preferred)
        for role, kind in table.kinds.items()
        if kind in kinds
    }
    if not found:
        columns = ", ".join(f"{role} ({kind.name})" for role, kind in table.kinds.items())
        raise ArgumentError(
            f"the space encodes {', '.join(space.modalities)}; {table.name} has {columns or 'no such column'}"
        )
    return found


def _parts_folder(out: Path, space: Space, table: Table, roles: Mapping[str, str], overwrite: bool) -> Path:
    parts = out.with_name(out.name + ".parts")
    identity = {
        "space": space.fingerprint,
        "table": table.fingerprint,
        "rows": len(table),
        "window": WINDOW,
        "roles": dict(roles),
    }
    if (parts / "identity.json").exists() and read_json(parts / "identity.json") != identity:
        if any(parts.glob("*.parquet")) and not overwrite:
            raise ArtefactError(
                f"{parts} holds the beginning of another embedding (another space or table): remove it, or pass "
                "--overwrite"
            )
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_json(parts / "identity.json", identity)
    return parts


def _write_part(
    part: Path, space: Space, table: Table, rows: range, roles: Mapping[str, str], batch_size: int
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = table.rows(rows)
    columns: dict[str, Any] = {"row": pa.array(table.row_numbers(rows), pa.int64())}
    for role, modality in roles.items():
        columns[role] = _vectors(space.encode(cells[role], modality, batch_size=batch_size))
    for role, kind in table.kinds.items():
        if kind not in EXAMPLES:
            names = table.label_names.get(role)
            columns[role] = pa.array([names[cell] for cell in cells[role]] if names else cells[role])
    with atomic_file(part) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _vectors(x: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])


def _join(parts: list[Path], out: Path) -> None:
    import pyarrow.parquet as pq

    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
