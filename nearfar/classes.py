"""The classes that a room defines, read from its source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def classes_of(room: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class at the top of a file in a folder or below it, with the file as a module relative to the folder."""
    for file in sorted(room.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                yield ".".join(file.relative_to(room).with_suffix("").parts), node
