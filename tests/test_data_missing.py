"""Empty cells where a role may have some: None when read, no fault, part of the fingerprint; refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from nearfar.data.kinds import Image, Missing, Reading, Text, Vector, accepted, may_be_empty
from nearfar.data.table import Table, read_table
from nearfar.errors import TableError

READS: dict[str, Reading] = {"text": Text, "image": Image | Vector | Missing}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(grey: int) -> Any:
    return Pictures.new("RGB", (4, 4), (grey, grey, grey))


def test_a_reading_says_whether_cells_may_be_empty() -> None:
    assert accepted(Image | Vector | Missing) == ((Image, Vector), False)
    assert accepted(Image | Missing | None) == ((Image,), True)
    assert may_be_empty(Image | Missing)
    assert not may_be_empty(Image | None)
    assert not may_be_empty(Image)


def test_empty_pictures_are_none_and_known_without_being_decoded() -> None:
    columns = {"text": ["one", "two", "three"], "image": [None, picture(7), None]}
    table = Table.from_columns(columns, {"image": Image | Missing})
    assert table.kinds == {"text": Text, "image": Image}
    assert table.present("image").tolist() == [False, True, False]
    assert table.present("text").all()
    rows = table.rows([2, 1])
    assert rows["image"][0] is None
    assert rows["image"][1].getpixel((0, 0)) == (7, 7, 7)
    assert table.select([1, 2]).present("image").tolist() == [True, False]
    assert [cell is None for cell in table.column("image")] == [True, False, True]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_vectors_of_a_file_may_be_missing(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"some.{suffix}"
    if suffix == "csv":
        file.write_text('text,image\none,\ntwo,"[1, 2]"\nthree,  \nfour,"[3, 4]"\n')
    else:
        file.write_text(
            '{"text": "one"}\n{"text": "two", "image": [1, 2]}\n{"text": "three", "image": null}\n'
            '{"text": "four", "image": [3, 4]}\n'
        )
    table = read_table(file, READS)
    assert table.kinds["image"] is Vector
    assert table.present("image").tolist() == [False, True, False, True]
    assert [None if v is None else v.tolist() for v in table.column("image")] == [None, [1, 2], None, [3, 4]]


def test_a_column_that_begins_with_a_thousand_empty_cells_is_of_the_kind_of_the_others() -> None:
    cells = [None] * 2500 + [[1.0, 2.0], [3.0, 4.0]]
    table = read_table({"text": [f"row {i}" for i in range(2502)], "image": cells}, READS)
    assert table.kinds["image"] is Vector
    assert table.present("image").sum() == 2
    with pytest.raises(TableError, match=r"row 2502.*3 numbers where the others have 2"):
        read_table({"text": ["a b"] * 2502, "image": [*cells[:-1], [1.0, 2.0, 3.0]]}, READS)


def test_what_is_bad_is_not_taken_for_missing() -> None:
    with pytest.raises(TableError, match=r"row 2.*position 1 of the vector is nan"):
        read_table({"text": ["a", "b", "c"], "image": [None, [np.nan, 1.0], [1.0, 2.0]]}, READS)


def test_empty_cells_are_refused_where_a_role_may_have_none() -> None:
    columns = {"text": ["one", "two"], "image": [picture(1), None]}
    for reads in ({"text": Text, "image": Image}, {"text": Text, "image": Image | None}, None):
        with pytest.raises(TableError, match=r"row 2, column 'image': the cell is empty"):
            read_table(columns, reads)
    with pytest.raises(TableError, match=r"row 1, column 'text'"):
        read_table({"text": [None, "two"], "image": [picture(1), None]}, READS)


def test_the_fingerprint_knows_which_cells_are_empty() -> None:
    def table(*cells: Any) -> Table:
        return Table.from_columns({"text": ["a", "b"], "image": list(cells)}, {"image": Vector | Missing})

    one, other, full = table(None, [1.0, 2.0]), table([1.0, 2.0], None), table([1.0, 2.0], [1.0, 2.0])
    assert len({one.fingerprint, other.fingerprint, full.fingerprint}) == 3
    assert one.fingerprint == table(None, [1.0, 2.0]).fingerprint
    plain = Table.from_columns({"text": ["a", "b"], "image": [[1.0, 2.0]] * 2}, {"image": Vector})
    assert plain.fingerprint == full.fingerprint
