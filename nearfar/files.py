"""Files that are either whole or absent, and fingerprints of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearfar.errors import ArtefactError


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is synced and renamed to `path`.

    Raises:
        ArtefactError: `path` exists already and `replace` is False.
    """
    path = Path(path)
    if path.exists() and not replace:
        raise ArtefactError(f"{path} exists already: choose another folder or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            # A rename cannot replace a folder that holds files; the old one is moved aside first,
            # so that at every moment either the old or the new one is there under some name.
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, aside / "old")
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ArtefactError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing: the folder is incomplete or not nearfar's") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as broken:
        raise ArtefactError(f"{path} is not valid JSON ({broken})") from None


def fingerprint_of_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def fingerprint_of_sources(folder: Path | str) -> str:
    """SHA-256 of the names and bytes of all Python files below `folder`, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(fingerprint_of_file(file).encode())
    return digest.hexdigest()[:16]
