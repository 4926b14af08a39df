"""What a reader hands over: a memory-mapped Arrow table, stored once and found again by its key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.faults import Faults
from nearfar.errors import TableError
from nearfar.files import atomic_folder, read_json, write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

READER_VERSION = 2
"""Part of every cache key: raise it when a reader changes what it makes of the same bytes."""


@dataclass(frozen=True)
class Source:
    """A table as it was read, before roles are given to its columns.

    Attributes:
        dataset: all rows that could be read; a cell that could not be is null.
        name: what the user typed.
        folder: where relative paths in cells start; None if there is no such place.
        faults: rows and cells that could not be read.
        notes: what the user should know about the reading.
        links: columns that were made of a file of edges.
    """

    dataset: Dataset
    name: str
    folder: Path | None = None
    faults: Faults = field(default_factory=Faults)
    notes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """The user's row numbers of rows of `dataset` (from 0), which whole-row faults are absent from."""
        absent = np.array(sorted(self.faults.rows(None)), dtype=np.int64)
        before = np.searchsorted(absent - 1 - np.arange(len(absent)), indices, side="right")
        return np.asarray(indices, dtype=np.int64) + 1 + before


@dataclass
class Content:
    """What a reader makes of a file: batches, the faults found while they are drawn, columns of links."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def cache_folder() -> Path:
    """Where converted tables are kept: `$XDG_CACHE_HOME/nearfar` or `~/.cache/nearfar`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearfar"


def key_of(*parts: Any) -> str:
    """A cache key: 32 hexadecimal digits of all that decides the content of a table."""
    text = "\0".join([str(READER_VERSION), *map(str, parts)])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def stored(key: str, read: Callable[[], Content], name: str, folder: Path | None = None) -> Source:
    """The table under `key`, memory-mapped; `read` is called if it is not in the cache yet.

    Raises:
        TableError: what `read` raises, or the cache cannot be written.
    """
    from datasets import Dataset

    kept = cache_folder() / "tables" / key
    if not (kept / "table.json").exists():
        try:
            with atomic_folder(kept, replace=True) as unfinished:
                _write(unfinished, read())
        except OSError as failed:
            raise TableError(
                f"cannot keep the converted table of {name} in {kept.parent} ({failed}): "
                "make room there, or set XDG_CACHE_HOME to a folder that can be written"
            ) from failed
    about = read_json(kept / "table.json")
    try:
        dataset = Dataset.from_file(str(kept / "table.arrow"))
    except Exception as refused:  # types and names that `datasets` does not take, each in its own way
        raise TableError(f"{name} holds columns that cannot be kept ({refused})") from None
    return Source(
        dataset, name, folder, Faults.from_json(about["faults"]), tuple(about["notes"]), tuple(about["links"])
    )


def _write(folder: Path, content: Content) -> None:
    import pyarrow as pa

    with pa.OSFile(str(folder / "table.arrow"), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as out:
        for batch in content.batches:
            out.write_batch(batch)
    write_json(
        folder / "table.json",
        {"faults": content.faults.to_json(), "notes": content.notes, "links": content.links},
    )


def in_memory(content: Content, name: str) -> Source:
    """The same without a cache, for values that Python holds already."""
    import pyarrow as pa
    from datasets import Dataset

    table = pa.Table.from_batches(list(content.batches), schema=content.schema)
    return Source(Dataset(table), name, None, content.faults, tuple(content.notes))
