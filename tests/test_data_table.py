"""Roles, checks, selection and fingerprints of tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from nearfar.data.checks import require_labels, require_rows
from nearfar.data.kinds import Id, Image, Kind, Label, Number, Text, Vector
from nearfar.data.table import Table, read_table
from nearfar.errors import ArgumentError, TableError

PAIRS = {"text": Text, "positive": Text | None, "negative": Text | None}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for files; the cache of converted tables is kept out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("tables")


def sentences(count: int, word: str = "words") -> list[str]:
    return [f"sentence {i} of some {word}" for i in range(count)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            ("anchor", "positive", "negative"),
            {"text": "anchor", "positive": "positive", "negative": "negative"},
        ),
        (
            ("premise", "entailment", "contradiction"),
            {"text": "premise", "positive": "entailment", "negative": "contradiction"},
        ),
        (("query", "pos"), {"text": "query", "positive": "pos"}),
        (("docstring", "code"), {"text": "docstring", "positive": "code"}),
        (("sentence1", "sentence2"), {"text": "sentence1", "positive": "sentence2"}),
        (("document", "query"), {"text": "query", "positive": "document"}),
        (("Text", "Hard Neg"), {"text": "Text", "negative": "Hard Neg"}),
        (("whatever",), {"text": "whatever"}),
    ],
)
def test_names_in_common_use(columns: tuple[str, ...], expected: dict[str, str]) -> None:
    table = read_table({name: sentences(4, name) for name in columns}, PAIRS)
    assert table.role_columns == expected
    guessed = {f"column {column!r} read as {role}" for role, column in expected.items() if role != column}
    assert set(table.notes) == guessed


def test_a_task_is_read_from_a_column_of_its_name_alone() -> None:
    """A column `split`, or any other of the right kind, would make tasks that nobody meant."""
    columns = {"text": ["a b", "c d"], "split": ["train", "test"]}
    reads = {"text": Text, "task": Label | Number}
    with pytest.raises(
        TableError, match=r"no column 'task' \(label or number\).*unless it is named.*--column task="
    ):
        read_table(columns, reads=reads)
    assert read_table(columns, reads=reads, columns={"task": "split"}).kinds["task"] is Label
    assert "task" in read_table({"text": ["a b", "c d"], "Task": [1.5, 2.5]}, reads=reads).kinds


def test_optional_roles_are_never_guessed_by_kind() -> None:
    table = read_table({"text": sentences(4), "remark": sentences(4, "x")}, PAIRS)
    assert table.role_columns == {"text": "text"}


def test_graded_pairs_are_not_all_positives() -> None:
    graded = {"sentence1": sentences(4), "sentence2": sentences(4, "x"), "score": [0.1, 0.2, 0.3, 0.4]}
    table = read_table(graded, PAIRS)
    assert "positive" not in table.role_columns
    assert any("'sentence2' not read as positive" in note for note in table.notes)
    assert read_table(graded, PAIRS, {"positive": "sentence2"}).role_columns["positive"] == "sentence2"
    scored = read_table(graded, {"text": Text, "positive": Text, "score": Number})
    assert scored.role_columns == {"text": "sentence1", "positive": "sentence2", "score": "score"}


def test_without_reads_all_standard_roles_are_taken() -> None:
    columns = {
        "caption": sentences(6),
        "label": list("aabbcc"),
        "embedding": np.eye(6).tolist(),
        "id": list(range(6)),
    }
    table = read_table(columns)
    assert table.role_columns == {"text": "caption", "label": "label", "vector": "embedding", "id": "id"}
    assert read_table({"remark": sentences(4)}).role_columns == {"text": "remark"}
    with pytest.raises(TableError, match=r"several could be it: one, two.*--column text=one"):
        read_table({"one": sentences(4), "two": sentences(4, "x")})


def test_missing_and_misnamed_columns_list_what_there_is() -> None:
    columns = {"body_a": sentences(4), "body_b": sentences(4, "x"), "n": [0.5, 1.5, 2.5, 2.5]}
    with pytest.raises(
        TableError, match=r"no column 'text' \(text\).*body_a \(text\).*n \(number\).*--column text=body_a"
    ):
        read_table(columns, {"text": Text})
    with pytest.raises(TableError, match=r"no column 'body_c' \(did you mean 'body_[ab]'\?\)"):
        read_table(columns, {"text": Text}, {"text": "body_c"})
    with pytest.raises(ArgumentError, match=r"no role 'txt' here; the roles are text"):
        read_table(columns, {"text": Text}, {"txt": "body_a"})
    with pytest.raises(TableError, match=r"column 'n': row 1 holds 0\.5, but text must be text"):
        read_table(columns, {"text": Text}, {"text": "n"})
    with pytest.raises(TableError, match=r"no column 'image'.*none is image"):
        read_table(columns, {"image": Image})


def test_a_name_alone_does_not_make_numbers_classes() -> None:
    graded = {"text": sentences(4), "label": [0.7, 3.2, 5.0, 1.0]}
    for reads in (None, {"text": Text, "label": Label | None}):
        table = read_table(graded, reads)
        assert table.role_columns == {"text": "text"}
        assert any("'label' not read as label: it seems to hold number" in note for note in table.notes)
    assert read_table(graded, {"text": Text, "score": Number}, {"score": "label"}).column("score")[0] == 0.7
    assert "label" in read_table({"text": sentences(4), "label": ["0", "1", "2", "2"]}).kinds


def test_standard_roles_beyond_reads_can_be_named() -> None:
    table = read_table({"text": sentences(4), "topic": list("aabb")}, {"text": Text}, {"label": "topic"})
    assert table.kinds == {"text": Text, "label": Label}


@pytest.mark.parametrize(
    ("role", "kind", "cells", "message"),
    [
        ("text", Text, ["a b", "  ", "c"], "the text is empty ('  ')"),
        ("text", Text, ["a b", None, "c"], "the cell is empty"),
        ("text", Text, ["a b", 7, "c"], "holds 7 where most rows"),
        ("score", Number, [0.5, float("nan"), 1.0], "holds nan, which is not a finite"),
        ("score", Number, ["0.5", "high", "1"], "holds 'high', which is not a number"),
        ("vector", Vector, [[1.0, 2.0], [1.0], [3.0, 4.0]], "1 numbers where the others have 2"),
        ("vector", Vector, [[1.0, 2.0], [1.0, float("inf")], [3.0, 4.0]], "position 2 of the vector is inf"),
        ("vector", Vector, [[1.0, 2.0], [None, 3.0], [3.0, 4.0]], "position 1 of the vector is nan"),
        ("vector", Vector, ["[1, 2]", "[1, x]", "[3, 4]"], "holds '[1, x]': not a list of numbers"),
        ("label", Label, [1.0, 1.5, 2.0], "holds 1.5, which is not a label"),
        ("label", Label, ["a", "", "b"], "the cell is empty"),
        ("id", Id, ["a", None, "b"], "the cell is empty"),
    ],
)
def test_bad_cells_are_named_or_skipped_and_counted(
    role: str, kind: type[Kind], cells: list, message: str
) -> None:
    columns, reads = {role: [*cells, cells[1]]}, {role: kind}
    with pytest.raises(TableError) as error:
        read_table(columns, reads)
    assert f"row 2, column {role!r}: " in str(error.value)
    assert message in str(error.value)
    assert "1 other row is bad too" in str(error.value)
    assert "--on-bad-row skip" in str(error.value)
    table = read_table(columns, reads, on_bad_row="skip")
    assert len(table) == 2
    assert table.row_numbers([0, 1]) == [1, 3]
    [note] = table.notes
    assert note.startswith("2 rows left out: 2 with")
    assert note.endswith("(rows 2, 4)")


def test_faults_of_columns_that_are_not_read_do_not_matter() -> None:
    table = read_table({"text": ["a", "b"], "score": ["x", ""]}, {"text": Text})
    assert len(table) == 2


def test_row_numbers_after_faults_of_reading_and_of_checking(folder: Path) -> None:
    file = folder / "mixed.csv"
    file.write_text("text,label\na,x\nb\nc,x\n   ,y\ne,y\nf,y,z\ng,x\n")
    table = read_table(file, {"text": Text}, on_bad_row="skip")
    assert table.column("text") == ["a", "c", "e", "g"]
    assert table.row_numbers(range(4)) == [1, 3, 5, 7]
    assert table.select([3, 1]).row_numbers([0, 1]) == [7, 3]
    with pytest.raises(TableError, match=r"row 2: has 1 cell .*2 other rows are bad too"):
        read_table(file, {"text": Text})


def test_all_rows_bad_is_an_error_also_when_skipping() -> None:
    with pytest.raises(TableError, match="no row is left; 2 rows left out: 2 with empty text"):
        read_table({"text": [" ", "\t"]}, {"text": Text}, on_bad_row="skip")


@pytest.mark.parametrize(
    ("cells", "names", "integers"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        ([10, 9, 10], ["9", "10"], [1, 0, 1]),
        (["10", "9", "10"], ["9", "10"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
    ],
)
def test_labels_are_integers_with_names(cells: list, names: list[str], integers: list[int]) -> None:
    table = read_table({"label": cells, "text": sentences(3)}, {"label": Label})
    assert table.label_names == {"label": names}
    assert table.column("label") == integers
    assert table.select([1]).column("label") == [integers[1]]


def test_ids_equal_exactly_where_the_cells_are_equal() -> None:
    cells = ["12", "x", "007", "7", "x", "-3"]
    ids = read_table({"id": cells}, {"id": Id}).column("id")
    assert [[a == b for b in ids] for a in ids] == [[a == b for b in cells] for a in cells]
    assert ids[0] == 12
    assert all(-(2**63) <= value < 2**63 for value in ids)


def test_from_columns_takes_every_column_as_a_role() -> None:
    pictures = [Pictures.new("RGB", (2, 2), (i, i, i)) for i in range(2)]
    table = Table.from_columns({"image": pictures, "group": [3, 3], "text": ["a", "b"]}, kinds={"group": Id})
    assert table.kinds == {"image": Image, "group": Id, "text": Text}
    assert [image.getpixel((0, 0)) for image in table.column("image")] == [(0, 0, 0), (1, 1, 1)]
    assert table.column("group") == [3, 3]
    with pytest.raises(TableError, match="text 1, label 2"):
        Table.from_columns({"text": ["a"], "label": [1, 2]})


def test_required_labels_and_rows() -> None:
    one = read_table({"text": sentences(3), "label": ["a", "a", "a"]})
    with pytest.raises(TableError, match=r"column 'label': all 3 rows have the label 'a'"):
        require_labels(one)
    with pytest.raises(TableError, match="each of the 3 rows has its own label"):
        require_labels(read_table({"text": sentences(3), "label": ["a", "b", "c"]}))
    require_labels(read_table({"text": sentences(3), "label": ["a", "b", "b"]}))
    require_rows(one, 3)
    with pytest.raises(TableError, match=r"has 3 rows, fewer than one batch of 4.*--batch-size 3"):
        require_rows(one, 4)


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(
        st.tuples(st.text("ab\0 é", min_size=1).filter(str.strip), st.integers(0, 3)), min_size=2, max_size=6
    ),
    data=st.data(),
)
def test_fingerprint_follows_content_only(cells: list[tuple[str, int]], data: st.DataObject) -> None:
    def table(rows: list[tuple[str, int]]) -> Table:
        kinds = {"text": Text, "id": Id}
        return Table.from_columns(
            {"text": [a for a, _ in rows], "id": [b for _, b in rows]}, kinds, name=str(len(rows))
        )

    first = table(cells)
    assert table(list(cells)).fingerprint == first.fingerprint
    order = data.draw(st.permutations(range(len(cells))))
    moved = [cells[i] for i in order]
    assert first.select(order).fingerprint == table(moved).fingerprint
    assert (first.select(order).fingerprint == first.fingerprint) == (moved == cells)
    at = data.draw(st.integers(0, len(cells) - 1))
    changed = [*cells[:at], (cells[at][0] + "a", cells[at][1]), *cells[at + 1 :]]
    assert table(changed).fingerprint != first.fingerprint


def test_fingerprint_ignores_format_and_unread_columns(folder: Path) -> None:
    (folder / "one.csv").write_text("text,label,other\na b,x,1\nc d,y,2\n")
    (folder / "two.jsonl").write_text('{"label": "x", "text": "a b"}\n{"label": "y", "text": "c d"}\n')
    one, two = read_table(folder / "one.csv"), read_table(folder / "two.jsonl")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != read_table(folder / "one.csv", {"text": Text}).fingerprint


@settings(max_examples=30, deadline=None)
@given(indices=st.lists(st.integers(0, 2499), max_size=40))
def test_rows_come_in_the_order_asked_for(folder: Path, indices: list[int]) -> None:
    file = folder / "many.csv"
    if not file.exists():
        file.write_text("text,vector\n" + "".join(f'row {i},"[{i}, {-i}]"\n' for i in range(2500)))
    rows = read_table(file).rows(indices)
    assert rows["text"] == [f"row {i}" for i in indices]
    assert [v.tolist() for v in rows["vector"]] == [[i, -i] for i in indices]
    with pytest.raises(IndexError):
        read_table(file).rows([2500])
