"""From what the user names to a source: files, folders, hub names, built-in tables, Python values."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.builtin import builtin_names, open_builtin
from nearfar.data.source import Content, Source, in_memory, key_of, stored
from nearfar.errors import ArgumentError, TableError
from nearfar.files import fingerprint_of_file

READERS: dict[str, tuple[str, str]] = {
    ".csv": ("delimited", "read_delimited"),
    ".tsv": ("delimited", "read_delimited"),
    ".txt": ("delimited", "read_lines"),
    ".jsonl": ("jsonl", "read_jsonl"),
    ".ndjson": ("jsonl", "read_jsonl"),
    ".json": ("jsonl", "read_jsonl"),
    ".parquet": ("columnar", "read_parquet"),
    ".npy": ("columnar", "read_numpy"),
    ".npz": ("columnar", "read_numpy"),
}
"""Suffix -> (file in `readers/`, function of a path); imported when the first such table is read."""


def _reader(suffix: str) -> Callable[[Path], Content]:
    file, function = READERS[suffix]
    return getattr(importlib.import_module(f"nearfar.data.readers.{file}"), function)


def open_source(source: Any) -> Source:
    """Open whatever `read_table` takes.

    Raises:
        TableError: it is missing, unknown or damaged.
        ArgumentError: it is nothing that can be a table.
    """
    if isinstance(source, (str, Path)):
        name = str(source)
        if name.startswith("builtin:"):
            return open_builtin(name.removeprefix("builtin:"))
        if name.startswith("env:"):
            from nearfar.data.environments import open_environment

            return open_environment(name.removeprefix("env:"))
        if name.startswith("hf:"):
            return _open_hub(name)
        return _open_path(Path(name), name)
    library = type(source).__module__.split(".")[0]
    if library == "datasets":
        if not hasattr(source, "column_names") or not hasattr(source, "data"):
            raise ArgumentError(
                "a dictionary or a stream of datasets is no table: pass one `datasets.Dataset`"
            )
        return Source(source, "dataset")
    if library == "pandas":
        columns = {str(name): source[name].tolist() for name in source.columns}
        return source_of_columns(columns, "frame")
    if isinstance(source, Mapping):
        return source_of_columns(source, "memory")
    raise ArgumentError(
        f"a table cannot be read from {type(source).__name__}: pass a file, a folder, builtin:NAME, env:NAME, hf:NAME, "
        "a dictionary of columns, a pandas frame or a datasets.Dataset"
    )


def source_of_columns(columns: Mapping[str, Sequence[Any] | np.ndarray], name: str) -> Source:
    """A source in memory from columns of equal length.

    Raises:
        TableError: no column, or columns of different lengths.
    """
    from nearfar.data.arrow import batches, categories, schema_of
    from nearfar.data.faults import Faults

    if not columns or len({len(cells) for cells in columns.values()}) > 1:
        sizes = ", ".join(f"{key} {len(cells)}" for key, cells in columns.items()) or "none"
        raise TableError(f"{name}: all columns must have as many cells, but they have: {sizes}")
    if all(isinstance(cells, np.ndarray) and cells.dtype.kind in "fiubU" for cells in columns.values()):
        from nearfar.data.readers.columnar import content_of_arrays

        return in_memory(content_of_arrays(dict(columns), name), name)  # type: ignore[arg-type]
    found: dict[str, str] = {}
    for column, cells in columns.items():
        kept, dropped = categories({column: cell} for cell in cells)
        if dropped:
            raise TableError(f"{name}, column {column!r}: holds values of no kind that a table can keep")
        found.update(kept)
    faults = Faults()
    rows = enumerate(zip(*columns.values(), strict=True), start=1)
    return in_memory(Content(schema_of(found), batches(rows, found, faults), faults), name)


def _open_path(path: Path, name: str) -> Source:
    if path.is_dir():
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _open_arrow(path, name)
        files = graph_files(path)
        if files is not None:
            return _open_graph(*files, name, path)
        from nearfar.data.readers.folders import open_folder

        return open_folder(path, name)
    if not path.exists():
        raise TableError(f"{name} does not exist{_nearby(path)}")
    suffix = path.suffix.lower()
    if suffix == ".arrow":
        return _open_arrow(path, name)
    if suffix not in READERS:
        raise TableError(
            f"{name}: files ending in {suffix or 'nothing'} cannot be read as a table; "
            f"these can: {', '.join([*READERS, '.arrow'])}"
        )
    try:
        key = key_of(suffix, fingerprint_of_file(path))
    except OSError as refused:
        raise TableError(f"{name} cannot be read ({refused.strerror})") from None
    return stored(key, lambda: _reader(suffix)(path), name, path.parent)


def graph_files(folder: Path) -> tuple[Path, Path] | None:
    """The files of nodes and of edges of a folder that holds a graph, `nodes.*` and `edges.*`; else None.

    Raises:
        TableError: there are two of one, or edges without nodes.
    """
    found = {
        stem: sorted(p for p in folder.glob(f"{stem}.*") if p.suffix.lower() in READERS)
        for stem in ("nodes", "edges")
    }
    if not found["edges"]:
        return None
    for stem, files in found.items():
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or f"no {stem}.csv, {stem}.jsonl or {stem}.parquet"
            raise TableError(f"{folder} is a graph by its {found['edges'][0].name}, but holds {names}")
    return found["nodes"][0], found["edges"][0]


def _open_graph(nodes: Path, edges: Path, name: str, folder: Path) -> Source:
    from nearfar.data.readers.graph import read_graph

    key = key_of("graph", *((file.suffix, fingerprint_of_file(file)) for file in (nodes, edges)))
    read = [(file, _reader(file.suffix.lower())) for file in (nodes, edges)]
    return stored(key, lambda: read_graph(*((file, reader(file)) for file, reader in read)), name, folder)


def _open_arrow(path: Path, name: str) -> Source:
    from nearfar.data.readers.columnar import open_arrow

    return open_arrow(path, name)


def _nearby(path: Path) -> str:
    """Names that the user may have meant."""
    built_in = difflib.get_close_matches(path.name, builtin_names(), 1)
    if built_in and path.name == str(path):
        return f"; did you mean builtin:{built_in[0]}?"
    try:
        there = sorted(p.name for p in path.parent.iterdir())
    except OSError:
        return f": there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, there, 3)
    if near:
        return f"; did you mean {', '.join(str(path.parent / other) for other in near)}?"
    tables = [other for other in there if Path(other).suffix.lower() in READERS][:5]
    return f"; the folder holds {', '.join(tables)}" if tables else ""


def _open_hub(name: str) -> Source:
    """`hf:NAME[:CONFIG][@SPLIT]`, through the `datasets` library; no code from the hub is run."""
    from datasets import get_dataset_split_names, load_dataset

    place, _, split = name.removeprefix("hf:").partition("@")
    repository, _, config = place.partition(":")
    notes: tuple[str, ...] = ()
    try:
        if not split:
            splits = list(get_dataset_split_names(repository, config or None))
            split = "train" if "train" in splits else splits[0]
            if len(splits) > 1:
                notes = (
                    f"split {split!r} read; the others are {', '.join(s for s in splits if s != split)}",
                )
        dataset = load_dataset(repository, config or None, split=split)
    except Exception as failed:  # network, unknown name, missing configuration: the library says which
        why = str(failed).split("\n", 1)[0]
        raise TableError(f"{name} cannot be loaded from the hub ({why})") from failed
    return Source(dataset, name, None, notes=notes)
