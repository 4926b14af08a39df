"""Files that hold typed columns already: Parquet, Arrow, NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nearfar.data.arrow import BATCH_ROWS
from nearfar.data.source import Content, Source
from nearfar.errors import TableError


def read_parquet(path: Path) -> Content:
    """Read a Parquet file, a batch of rows at a time.

    Raises:
        TableError: the file is not Parquet or is damaged.
    """
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = _plain_schema(file.schema_arrow)
    except (pa.ArrowException, OSError) as broken:
        raise TableError(f"{path} is not a readable Parquet file ({broken})") from None

    def drawn() -> Iterator[pa.RecordBatch]:
        try:
            for batch in file.iter_batches(BATCH_ROWS):
                arrays = [
                    _plain(column, wanted.type) for column, wanted in zip(batch.columns, schema, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        except (pa.ArrowException, OSError) as broken:
            raise TableError(f"{path} is a damaged Parquet file ({broken})") from None

    return Content(schema, drawn())


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Types that `datasets` knows; its own metadata (class names) stay, pandas' goes."""
    fields = []
    for found in schema:
        kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
        if pa.types.is_decimal(kind):
            kind = pa.float64()
        elif pa.types.is_string_view(kind):
            kind = pa.string()
        fields.append(pa.field(found.name, kind))
    own = (schema.metadata or {}).get(b"huggingface")
    return pa.schema(fields, metadata={b"huggingface": own} if own else None)


def _plain(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return column if column.type == wanted else column.cast(wanted)


def open_arrow(path: Path, name: str) -> Source:
    """Memory-map a folder of `datasets.save_to_disk`, or one Arrow file, as it is.

    Raises:
        TableError: it is a dictionary of splits, or damaged.
    """
    from datasets import Dataset, load_from_disk

    if (path / "dataset_dict.json").exists():
        splits = ", ".join(str(path / p.name) for p in sorted(path.iterdir()) if p.is_dir())
        raise TableError(f"{name} holds several tables: name one of {splits}")
    try:
        dataset = load_from_disk(str(path)) if path.is_dir() else Dataset.from_file(str(path))
    except Exception as broken:  # whatever a damaged file makes the library raise
        raise TableError(f"{name} is not a readable Arrow table ({broken})") from None
    return Source(dataset, name, path if path.is_dir() else path.parent)


def read_numpy(path: Path) -> Content:
    """Read `.npy` (one array: column `vector`) or `.npz` (one column an array).

    Raises:
        TableError: not a NumPy file, an array of objects, arrays of other shapes than [N] or [N, d],
            or of different N.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays = {"vector" if loaded.ndim == 2 else "value": loaded}
        else:
            arrays = {name: loaded[name] for name in loaded.files}
    except Exception as broken:  # zip, zlib, header and pickle refusals each raise their own
        raise TableError(f"{path} is not a NumPy file of plain arrays ({broken})") from None
    return content_of_arrays(arrays, str(path))


def content_of_arrays(arrays: dict[str, np.ndarray], name: str) -> Content:
    """Columns from arrays: [N, d] numbers become vectors, [N] numbers, truth values or strings stay.

    Raises:
        TableError: an array of another shape or type, or arrays of different N.
    """
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1:
        sizes = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "no arrays"
        raise TableError(f"{name}: all arrays must have as many rows, but it holds {sizes}")
    for key, array in arrays.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in ("fiub" if array.ndim == 2 else "fiubU"):
            raise TableError(
                f"{name}: array {key!r} is {array.dtype} {list(array.shape)}; "
                "it must be numbers [N, d], or numbers or strings [N]"
            )
    count = lengths.pop()
    schema = pa.schema([(key, _array_type(array)) for key, array in arrays.items()])

    def drawn() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, BATCH_ROWS):
            parts = [_arrow(array[start : start + BATCH_ROWS]) for array in arrays.values()]
            yield pa.RecordBatch.from_arrays(parts, schema=schema)

    return Content(schema, drawn())


def _array_type(array: np.ndarray) -> pa.DataType:
    if array.ndim == 2:
        return pa.list_(pa.float32())
    return {"f": pa.float64(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_(), "U": pa.string()}[
        array.dtype.kind
    ]


def _arrow(part: np.ndarray) -> pa.Array:
    if part.ndim == 2:
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(part, dtype=np.float32).ravel()
        offsets = np.arange(0, flat.size + 1, part.shape[1] or 1, dtype=np.int32)[: len(part) + 1]
        if not part.shape[1]:
            offsets = np.zeros(len(part) + 1, dtype=np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    wanted = _array_type(part)
    plain: Any = (
        part.tolist() if part.dtype.kind in "Uu" else np.ascontiguousarray(part, part.dtype.newbyteorder("="))
    )
    return pa.array(plain, type=wanted) if part.dtype.kind in "Uu" else pa.array(plain).cast(wanted)
