"""A folder of pictures, of sounds or of text files; subfolders are class names, or splits and then class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nearfar.data.arrow import batches, schema_of
from nearfar.data.faults import Faults
from nearfar.data.source import Content, Source, key_of, stored
from nearfar.errors import TableError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
)
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".text"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".npy", ".npz", ".arrow"})
SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "valid", "validation", "val", "dev"})


def open_folder(folder: Path, name: str) -> Source:
    """Read a folder of pictures (columns image, file), of sounds (audio, file) or of texts (text, file).

    Text files beside sounds (transcripts, notes) are not read, which is told.

    Raises:
        TableError: there is none of these, or pictures with others.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    sounds = [p for p in files if p.suffix.lower() in AUDIO_SUFFIXES]
    texts = [p for p in files if p.suffix.lower() in TEXT_SUFFIXES]
    tables = [str(p) for p in files if p.suffix.lower() in TABLE_SUFFIXES][:5]
    if images and (sounds or texts):
        others = "sounds" if sounds else "text files"
        raise TableError(f"folder {name} holds both pictures and {others}: put them apart")
    if not (images or sounds) and (tables or not texts):
        what = (
            f"tables: name one of {', '.join(tables)}" if tables else "no picture, no sound and no text file"
        )
        raise TableError(f"folder {name} holds {what}")
    role, chosen = next(
        (role, found) for role, found in (("image", images), ("audio", sounds), ("text", texts)) if found
    )
    notes = []
    if len(files) > len(chosen):
        notes.append(f"{len(files) - len(chosen)} files of other kinds in {name} are not read")
    relative = [p.relative_to(folder) for p in chosen]
    places, more = _places(relative)
    states = [(str(p.relative_to(folder)), s.st_size, s.st_mtime_ns) for p in chosen for s in [p.stat()]]
    key = key_of("folder", role, *states)
    return stored(key, lambda: _content(folder, role, relative, places, notes + more), name, folder)


def _places(files: Sequence[Path]) -> tuple[dict[str, list[str]], list[str]]:
    """The columns `split` and `label` that the subfolders stand for, and notes."""
    parents = [path.parts[:-1] for path in files]
    columns = {}
    if all(parts and parts[0].lower() in SPLIT_FOLDERS for parts in parents):
        columns["split"] = [parts[0].lower() for parts in parents]
        parents = [parts[1:] for parts in parents]
    outside = sum(not parts for parts in parents)
    if not outside:
        columns["label"] = [parts[0] for parts in parents]
    if 0 < outside < len(parents):
        return columns, [f"no column 'label': {outside} files lie outside the subfolders"]
    return columns, []


def _content(
    folder: Path, role: str, files: list[Path], places: dict[str, list[str]], notes: list[str]
) -> Content:
    columns = dict.fromkeys([role, "file", *places], "text")
    faults = Faults()

    def cell(path: Path, row: int) -> str | None:
        if role != "text":
            return str(path)  # decoded when it is needed
        try:
            return (folder / path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as broken:
            byte = f"byte 0x{broken.object[broken.start]:02X} at position {broken.start + 1}"
            faults.add(row, role, "undecodable bytes", f"file {path}: {byte} is not UTF-8")
            return None

    def rows() -> Iterator[tuple[int, list[str | None]]]:
        for at, path in enumerate(files):
            yield at + 1, [cell(path, at + 1), str(path), *(values[at] for values in places.values())]

    return Content(schema_of(columns), batches(rows(), columns, faults), faults, notes)
