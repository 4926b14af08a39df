"""Results of a verb as a file of rows: CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_file

SUFFIXES = (".csv", ".jsonl", ".parquet")


def check_out(out: Path | str | None, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        ArgumentError: its suffix says no format.
        ArtefactError: it exists already and `overwrite` is False.
    """
    if out is None:
        return
    if Path(out).suffix not in SUFFIXES:
        raise ArgumentError(f"out must end in {', '.join(SUFFIXES)}, not {Path(out).name!r}")
    if Path(out).exists() and not overwrite:
        raise ArtefactError(f"{out} exists already: choose another file, or pass --overwrite")


def write_rows(out: Path | str, columns: Mapping[str, list[Any]]) -> None:
    """Write columns of one length; None beside integers is an empty cell (CSV), null or a missing value.

    Args:
        out: a file that `check_out` has passed; its suffix says the format.
        columns: name -> cells.
    """
    import pandas as pd

    # Without a type that may be missing, integers beside an empty cell would become floats.
    frame = pd.DataFrame(
        {name: pd.Series(cells, dtype="Int64" if None in cells else None) for name, cells in columns.items()}
    )
    with atomic_file(out) as temporary:
        if Path(out).suffix == ".csv":
            frame.to_csv(temporary, index=False)
        elif Path(out).suffix == ".jsonl":
            frame.to_json(temporary, orient="records", lines=True, force_ascii=False, double_precision=15)
        else:
            frame.to_parquet(temporary, index=False)
