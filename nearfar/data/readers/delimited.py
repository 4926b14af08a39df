"""CSV, TSV and plain lines of text. All cells are read as strings; roles decide what they mean.

The standard library's parser is used because it reports an unclosed quote and has no limit on the
length of a cell; blank lines are no rows, and row numbers count what is left, without the header.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from nearfar.data.arrow import batches, schema_of
from nearfar.data.faults import Faults, shown
from nearfar.data.source import Content
from nearfar.errors import TableError


def read_delimited(path: Path) -> Content:
    """Read a CSV or TSV file, UTF-8, whose first row names the columns.

    Raises:
        TableError: no header, repeated column names, or a quote that never closes.
    """
    separator, notes = _separator(path)
    names = _header(path, separator)
    columns = dict.fromkeys(names, "text")
    faults = Faults()
    rows = _rows(path, separator, len(names), faults)
    return Content(schema_of(columns), batches(rows, columns, faults), faults, notes)


def read_lines(path: Path) -> Content:
    """Read a text file, UTF-8: every line that is not blank is one row of the column `text`."""
    faults = Faults()
    columns = {"text": "text"}

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            lines = (line.rstrip("\r\n") for line in file)
            for number, line in enumerate((line for line in lines if line.strip()), start=1):
                yield number, (line,)

    return Content(schema_of(columns), batches(rows(), columns, faults), faults)


def _separator(path: Path) -> tuple[str, list[str]]:
    if path.suffix.lower() == ".tsv":
        return "\t", []
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        first = file.readline(1 << 20)
    if "," not in first:
        for separator, word in ((";", "semicolons"), ("\t", "tabs")):
            if separator in first:
                return separator, [f"the header holds no comma: cells are read as separated by {word}"]
    return ",", []


def _parsed(path: Path, separator: str, faults: Faults) -> Iterator[list[str]]:
    """All rows that are not blank; a row that breaks the rules of quoting comes out empty."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        # `surrogateescape` carries bytes that are not UTF-8 to the cell, which can then be named.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=separator, strict=True)
            number = 0  # the header
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as broken:
                    if "unexpected end of data" in str(broken):
                        raise TableError(
                            f"{path}, row {number}: a quote that opens in this row never closes, so that the "
                            "rest of the file would be one cell: close it, or write it twice"
                        ) from None
                    faults.add(number, None, "broken quoting", f"the quoting is broken ({broken})")
                    row = []
                else:
                    if not row:
                        continue
                yield row
                number += 1
    finally:
        csv.field_size_limit(limit)


def _header(path: Path, separator: str) -> list[str]:
    faults = Faults()
    names = next(_parsed(path, separator, faults), None)
    if names is None:
        raise TableError(f"{path} is empty: the first row must name the columns")
    for name in names:
        if "\0" in name:
            raise TableError(
                f"{path}, header: the column name {shown(name)} holds a NUL: this is no CSV file, or one in "
                "UTF-16; save it as UTF-8"
            )
        try:
            name.encode()
        except UnicodeEncodeError as broken:
            byte = ord(broken.object[broken.start]) & 0xFF
            raise TableError(
                f"{path}, header: byte 0x{byte:02X} in the column name {shown(name)} is not UTF-8: "
                "save the file as UTF-8"
            ) from None
    names = [name.strip() or f"column {at}" for at, name in enumerate(names, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        what = f"names a column twice: {', '.join(map(repr, repeated))}" if repeated else "is broken"
        raise TableError(f"{path}: the header {what}")
    return names


def _rows(path: Path, separator: str, width: int, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(_parsed(path, separator, faults)):
        if number == 0 or not row:
            continue
        if len(row) != width:
            cells = f"{len(row)} cell{'s' * (len(row) != 1)}"
            message = f"has {cells} where the header has {width}: quote cells that hold {separator!r}"
            faults.add(number, None, "another number of cells", message)
            continue
        yield number, row
