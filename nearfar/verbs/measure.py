"""`measure`: numbers that say what a space, or a file of vectors, is like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar.data.kinds import EXAMPLES, Label, Number, Reading, Text, Vector
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.encoders import SHIPPED
from nearfar.encoders.causal import CausalText
from nearfar.encoders.gguf import SUFFIX as GGUF
from nearfar.errors import ArgumentError
from nearfar.heads.fusion import WeightedMean
from nearfar.heads.prototypes import Prototypes
from nearfar.measures.embeddings import RECORD, Measurement, measure_embeddings
from nearfar.measures.language import language_measures
from nearfar.measures.transcripts import RECOGNISER, transcribe
from nearfar.search.records import FUSION, record_roles
from nearfar.space import Space

MEASURED: dict[str, Reading] = {"label": Label | None, "score": Number | None}
"""Roles that measures use where a table has them, beside what is embedded."""


def measure(
    space: Space | Path | str | np.ndarray | Mapping[str, np.ndarray],
    table: Table | Path | str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    report: Path | str | None = None,
    batch_size: int = 64,
    modality: str | None = None,
) -> dict[str, Measurement]:
    """Measure a space on a table, or bare embeddings.

    What is measured follows from what there is: always uniformity, effective rank, isotropy and hubness;
    with pairs also alignment and retrieval; with scores STS; with labels neighbours, probe and clusters;
    with two modalities their gap; with a space that fuses them, the labels by the fused record as well; of a
    causal language model also perplexity, repetition, and how alike the token states of a text are in every
    layer (the isotropy audit); of a recogniser of speech, with a column `text`, its errors;
    where the space has clusters of its own, those, and the page shows them.

    Args:
        space: a space, its folder, a model of texts (a folder, a GGUF file, "smollm2", a name on the hub), an array
            [N, d], arrays by role, or a file of vectors.
        table: rows to encode; for vectors, where labels and scores come from (row by row).
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        report: where to write a page with pictures; None writes none.
        batch_size: rows encoded at once.
        modality: what reads a column that several modalities of the space can read; None means the first.

    Returns:
        name -> measurement.
    """
    if isinstance(space, (str, Path)) and _is_space(space):
        space = Space.load(space)
    geometry = space.geometry if isinstance(space, Space) else "cosine"
    z, others, cells = embedded(
        space, table, columns=columns, on_bad_row=on_bad_row, batch_size=batch_size, modality=modality
    )
    measured = measure_embeddings(z, others, identity=cells, geometry=geometry)
    if isinstance(space, Space):
        measured |= measure_language(space, cells, by_layer=True)
    if report is not None:
        from nearfar.report.cluster_wall import cluster_sections
        from nearfar.report.measure_page import write_measure_page

        generator = space.parts.get("generator") if isinstance(space, Space) else None
        walls = cluster_sections(others.get("cluster"), cells.get("image"), generator)
        write_measure_page(report, measured, z, others, cells, walls)
    return measured


Embedded = tuple[dict[str, np.ndarray], dict[str, list[Any]], dict[str, list[Any]]]
"""Embeddings by role, the other columns by role, and the raw cells of the embedded roles."""


def embedded(
    space: Space | Path | str | np.ndarray | Mapping[str, np.ndarray],
    table: Table | Path | str | None,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    batch_size: int = 64,
    modality: str | None = None,
) -> Embedded:
    """What `measure` looks at; see there for the arguments."""
    of_file = isinstance(space, (str, Path)) and not _is_space(space)
    if isinstance(table, (str, Path)):
        encodes = isinstance(space, Space) or (isinstance(space, (str, Path)) and not of_file)
        reads = None if encodes else MEASURED
        table = read_table(str(table), reads=reads, columns=columns, on_bad_row=on_bad_row)
    if isinstance(space, (str, Path)) and of_file:
        vectors = _vector_table(str(space), {} if table is not None else columns or {}, on_bad_row)
        z = {role: np.stack(vectors.column(role)) for role, kind in vectors.kinds.items() if kind is Vector}
        if table is not None and len(table) != len(vectors):
            raise ArgumentError(
                f"{space} holds {len(vectors)} vectors and {table.name} {len(table)} rows: the table says of "
                "every vector what it belongs to, row by row"
            )
        space, table = z, table if table is not None else vectors
    if isinstance(space, np.ndarray):
        space = {"vector": space}
    if isinstance(space, Mapping):
        z = {role: np.asarray(vectors, dtype=np.float32) for role, vectors in space.items()}
        others = (
            {}
            if table is None
            else {r: _named(table, r) for r, k in table.kinds.items() if k not in EXAMPLES}
        )
        cells = {} if table is None else {r: table.column(r) for r, k in table.kinds.items() if k is Text}
        return z, others, cells
    if table is None:
        raise ArgumentError("a space is measured on examples: give a table as well")
    space = space if isinstance(space, Space) else Space.load(space)
    return encoded(space, table, batch_size=batch_size, preferred=modality)


def encoded(space: Space, table: Table, *, batch_size: int = 64, preferred: str | None = None) -> Embedded:
    """Encode every role of a table that a space can read, and find the clusters of the first, if it has any."""
    z: dict[str, np.ndarray] = {}
    others: dict[str, list[Any]] = {}
    cells: dict[str, list[Any]] = {}
    readable = {encoder.kind for encoder in space.encoders.values()}
    taken: set[str] = set()
    for role, kind in table.kinds.items():
        column = table.role_columns[role]
        if kind in readable and column in taken:
            continue  # one column under two roles would be its own perfect pair
        taken.add(column)
        if kind in readable:
            cells[role] = table.column(role)
            modality = space.modality_for(role, cells[role][0], preferred)
            z[role] = space.encode(cells[role], modality, batch_size=batch_size)
        elif kind not in EXAMPLES:
            others[role] = _named(table, role)
    if RECOGNISER in space.parts and table.kinds.get("text") is Text and "audio" in cells:
        heard = transcribe(space, cells["audio"], batch_size=batch_size)
        others["transcript"] = list(zip(table.column("text"), heard, strict=True))
    if not z:
        raise ArgumentError(
            f"the space encodes {', '.join(space.modalities)}; {table.name} has "
            f"{', '.join(f'{role} ({kind.name})' for role, kind in table.kinds.items())}: map one with "
            "--column role=name"
        )
    fusion = space.parts.get(FUSION)
    if isinstance(fusion, WeightedMean):
        roles = record_roles(space, table)
        if set(fusion.used) <= set(roles):
            z[RECORD] = fusion({name: torch.from_numpy(z[role]) for name, role in roles.items()}).numpy()
    if isinstance(clusters := space.parts.get("clusters"), Prototypes):
        first = torch.from_numpy(next(iter(z.values()))).to(clusters.rows.device)
        others["cluster"] = clusters.assign(first).tolist()
    return z, others, cells


def measure_language(
    space: Space, cells: Mapping[str, Sequence[Any]], *, by_layer: bool = False
) -> dict[str, Measurement]:
    """What the causal language models of a space, if it has any, make of the texts that they encoded."""
    found: dict[str, Measurement] = {}
    for role, texts in cells.items():
        encoder = space.encoders[space.modality_for(role, texts[0])]
        if isinstance(encoder, CausalText) and not found:  # the anchor's texts; its partners are alike
            found = language_measures(encoder, texts, by_layer=by_layer)
    return found


def _vector_table(source: str, columns: Mapping[str, str], on_bad_row: OnBadRow) -> Table:
    """A file of vectors with a role for each of its columns of vectors, by name unless `columns` says another."""
    found = read_table(source, reads={}, on_bad_row=on_bad_row).raw_columns
    taken = set(columns.values())
    vectors = {name: name for name, kind in found.items() if kind is Vector and name not in taken}
    vectors |= {role: name for role, name in columns.items() if found.get(name) is Vector}
    if not vectors:
        known = ", ".join(f"{name} ({kind.name if kind else 'nested'})" for name, kind in found.items())
        raise ArgumentError(
            f"{source} has no column of vectors, only {known}; to measure raw data give a space and a table"
        )
    reads: dict[str, Reading] = {**dict.fromkeys(vectors, Vector), **MEASURED}
    return read_table(source, reads=reads, columns={**vectors, **columns}, on_bad_row=on_bad_row)


def _named(table: Table, role: str) -> list[Any]:
    """The cells of a role, labels by their names."""
    names = table.label_names.get(role)
    return [names[cell] for cell in table.column(role)] if names else table.column(role)


def _is_space(source: Path | str) -> bool:
    """Whether what is to be measured is a model: a folder of one, or a name as the hub and packages give it."""
    folder = Path(source)
    if str(source) in SHIPPED or folder.suffix == GGUF:
        return True
    if not folder.exists():
        return not folder.suffix and ":" not in str(source)
    return folder.is_dir() and any(
        (folder / name).exists() for name in ("space.json", "modules.json", "config.json")
    )
