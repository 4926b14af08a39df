"""JSON: one object a line, or one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nearfar.data.arrow import batches, categories, schema_of
from nearfar.data.faults import Faults, shown
from nearfar.data.source import Content
from nearfar.errors import TableError


def read_jsonl(path: Path) -> Content:
    """Read JSON lines (blank lines are no rows), or a JSON file that is one list of objects.

    The file is read twice: once to learn what each column holds, once to convert it.

    Raises:
        TableError: the file is one list and is not valid JSON.
    """
    found, dropped = categories(row for _, row in _rows(path, Faults()))
    faults = Faults()
    rows = ((number, [row.get(name) for name in found]) for number, row in _rows(path, faults))
    notes = [f"column {name!r} holds objects or lists of lists: it is not read" for name in dropped]
    return Content(schema_of(found), batches(rows, found, faults), faults, notes)


def _rows(path: Path, faults: Faults) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, value in enumerate(_values(path), start=1):
        if isinstance(value, Mapping):
            if _is_plain("".join(value)):
                yield number, value
            else:
                faults.add(number, None, "a broken key", f"a key of {shown(value)} is not valid Unicode")
        elif isinstance(value, _Broken):
            faults.add(number, None, "broken JSON", f"is not valid JSON ({value})")
        else:
            faults.add(number, None, "no object", f"holds {shown(value)} where an object {{...}} should be")


def _is_plain(key: str) -> bool:
    return "\0" not in key and not any("\ud800" <= character <= "\udfff" for character in key)


class _Broken(str):
    """Stands in for the value of a line that is not JSON: why it is not."""

    __slots__ = ()


def _values(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        if _is_one_list(path):
            try:
                yield from json.load(file)
            except (ValueError, RecursionError) as broken:
                raise TableError(f"{path} is not valid JSON ({broken})") from None
            return
        for line in file:
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as broken:
                yield _Broken(str(broken))


def _is_one_list(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if line.strip():
                return line.lstrip().startswith("[")
    return False
