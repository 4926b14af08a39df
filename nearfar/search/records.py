"""Records of several columns as one embedding each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nearfar.errors import ArgumentError
from nearfar.heads.fusion import WeightedMean

if TYPE_CHECKING:
    from nearfar.data.table import Table
    from nearfar.space import Space

FUSION = "fusion"
"""The part of a space that fuses modalities; a space without it weighs them equally."""


def encode_records(space: Space, columns: Mapping[str, Sequence[Any]], *, batch_size: int = 64) -> np.ndarray:
    """Embed records that have a picture and a text (or any modalities of a space), in order.

    The unit embeddings of the modalities that a record has are fused by the space's part "fusion", or weigh
    the same. Records of one column are embedded as `Space.encode` embeds them.

    Args:
        space: encodes the cells.
        columns: modality -> N raw cells; None where a record lacks it.
        batch_size: cells encoded at once.

    Returns:
        float32 array [N, d].

    Raises:
        ArgumentError: there are no columns, or not of one length, or the space does not encode one; a record has
            nothing that is weighed (its place in the list is named); or the geometry knows no fusion.
    """
    if unknown := set(columns) - set(space.modalities):
        raise ArgumentError(
            f"the space encodes {', '.join(space.modalities)}, not {', '.join(sorted(unknown))}"
        )
    if len(lengths := {len(cells) for cells in columns.values()}) != 1:
        raise ArgumentError(f"records need columns, all of one length; got {sorted(lengths) or 'none'}")
    fusion = space.parts.get(FUSION)
    if not isinstance(fusion, WeightedMean):
        fusion = WeightedMean(dict.fromkeys(space.modalities, 1.0))
    taken = {name: cells for name, cells in columns.items() if name in fusion.used}
    there = {name: np.array([cell is not None for cell in cells]) for name, cells in taken.items()}
    [n] = lengths
    empty = np.flatnonzero(~np.any([np.zeros(n, dtype=bool), *there.values()], axis=0))
    if len(empty):
        raise ArgumentError(
            f"record {empty[0] + 1} has no {' and no '.join(fusion.used)} to embed ({len(empty)} such records)"
        )
    if len(taken) == 1 and all(rows.all() for rows in there.values()):
        [(name, cells)] = taken.items()
        return space.encode(cells, name, batch_size=batch_size)
    if space.geometry == "lorentz":
        raise ArgumentError(
            f"{' and '.join(taken)} are fused as directions, which a space of geometry 'lorentz' does not compare: "
            "give one of the columns only"
        )
    z: dict[str, torch.Tensor] = {}
    for name, cells in taken.items():
        if not there[name].any():
            continue
        found = space.encode([cell for cell in cells if cell is not None], name, batch_size=batch_size)
        whole = np.zeros((n, found.shape[1]), dtype=np.float32)
        whole[there[name]] = found
        z[name] = torch.from_numpy(whole)
    return fusion(z).numpy()


def record_roles(space: Space, table: Table) -> dict[str, str]:
    """Modality -> role of the table that it is read from: the first of each that is no `positive` or `negative`.

    Raises:
        ArgumentError: the space reads no column of the table.
    """
    kinds = {encoder.kind for encoder in space.encoders.values()}
    first = table.rows([0])
    found: dict[str, str] = {}
    for role, kind in table.kinds.items():
        if kind in kinds and role not in ("positive", "negative"):
            found.setdefault(space.modality_for(role, first[role][0]), role)
    if not found:
        there = ", ".join(f"{role} ({kind.name})" for role, kind in table.kinds.items())
        raise ArgumentError(
            f"the space reads {', '.join(sorted(kind.name for kind in kinds))}; {table.name} has {there}: name a "
            f"column with --column {space.modalities[0]}=NAME"
        )
    return found


def encode_table(space: Space, table: Table, *, batch_size: int = 64) -> np.ndarray:
    """One embedding for each row of a table, out of all its columns that the space reads: float32 [N, d].

    Raises:
        ArgumentError: the space reads no column of the table.
    """
    columns = {modality: table.column(role) for modality, role in record_roles(space, table).items()}
    return encode_records(space, columns, batch_size=batch_size)
