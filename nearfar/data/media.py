"""Cells that are files of pictures or sounds: telling which, and decoding them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.kinds import Audio, Image, Kind
from nearfar.data.readers.folders import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from nearfar.data.sound import Sound, decoded, starts_like_sound

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


def file_bytes(cell: Any, folder: Path | None, what: str) -> bytes:
    """What a cell holds, or the file that it names.

    Args:
        cell: a path, bytes, or a dictionary of both as `datasets` stores media.
        folder: where relative paths start.
        what: how messages call it.

    Raises:
        ValueError: there is neither, or the file cannot be read.
    """
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if not cell:
        raise ValueError(f"the {what} has neither bytes nor a file")
    path = (folder or Path()) / cell
    try:
        return path.read_bytes()
    except (OSError, ValueError) as missing:
        reason = getattr(missing, "strerror", None) or missing
        raise ValueError(f"the {what} {path} cannot be read ({reason})") from None


def _file_name(cell: Any) -> str:
    """The file of a cell with a space before it, as messages put it behind "the picture"; empty for bytes."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    return f" {path}" if isinstance(path, str) else ""


def open_image(cell: Any, folder: Path | None) -> Picture:
    """Decode a picture to RGB, upright (EXIF), the first frame of an animation.

    Raises:
        ValueError: there is no such file, or it is no picture, or it is cut off.
    """
    from PIL import Image as Pictures
    from PIL import ImageOps

    encoded = file_bytes(cell, folder, "picture")
    try:
        with Pictures.open(io.BytesIO(encoded)) as picture:
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):
                # 16-bit grey: converting to RGB would clip all but the darkest 256 levels to white.
                upright = Pictures.fromarray((np.asarray(upright).clip(0, 65535) / 257).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, SyntaxError, ValueError, Pictures.DecompressionBombError) as broken:
        raise ValueError(f"the picture{_file_name(cell)} cannot be decoded ({broken})") from None


def open_sound(cell: Any, folder: Path | None) -> Sound:
    """Decode a sound to one channel.

    Raises:
        ValueError: there is no such file, or it is no sound, is cut off, or holds no sample.
        MissingExtra: the library for sound files is not installed.
    """
    encoded = file_bytes(cell, folder, "sound")
    try:
        return decoded(encoded)
    except ValueError as broken:
        raise ValueError(f"the sound{_file_name(cell)} {broken}") from None


def file_kind(cells: Sequence[Any], folder: Path | None) -> type[Kind] | None:
    """Picture or sound, where the cells name or hold files of one of these."""
    if all(isinstance(cell, str) for cell in cells):
        kind = _kind_of_suffix(cells[0])
        if kind is None or not all(_kind_of_suffix(cell) is kind for cell in cells):
            return None
        return kind if any(((folder or Path()) / cell).is_file() for cell in cells[:20]) else None
    try:
        starts = [file_bytes(cell, folder, "file")[:16] for cell in cells[:20]]
    except ValueError:
        return _kind_of_suffix(str(cells[0].get("path"))) if isinstance(cells[0], dict) else None
    if any(start.startswith(_MAGIC) or start[8:12] == b"WEBP" for start in starts):
        return Image
    return Audio if any(map(starts_like_sound, starts)) else None


def _kind_of_suffix(name: str) -> type[Kind] | None:
    suffix = Path(name).suffix.lower()
    return Image if suffix in IMAGE_SUFFIXES else Audio if suffix in AUDIO_SUFFIXES else None
