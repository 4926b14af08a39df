"""Every format gives back what was written into it, and names what it cannot read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from nearfar.data.kinds import Id, Image, Label, Number, Text, Vector
from nearfar.data.table import Table, read_table
from nearfar.errors import NearfarError, TableError

VISIBLE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for files; the cache of converted tables is kept out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("tables")


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> Pictures.Image:
    return Pictures.new("RGB", size, colour)


def encoded(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(colour).save(buffer, kind)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(VISIBLE, VISIBLE), min_size=1, max_size=6))
def test_csv_round_trip_of_any_text(folder: Path, rows: list[tuple[str, str]]) -> None:
    file = folder / "any.csv"
    with open(file, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "positive"])
        writer.writerows(rows)
    table = read_table(file)
    assert table.rows(range(len(table))) == {"text": [a for a, _ in rows], "positive": [b for _, b in rows]}


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(VISIBLE, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=6))
def test_jsonl_round_trip_of_any_text_and_integer(folder: Path, rows: list[tuple[str, int]]) -> None:
    file = folder / "any.jsonl"
    lines = [json.dumps({"text": text, "id": number}, ensure_ascii=False) for text, number in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    table = read_table(file, {"text": Text, "id": Id})
    assert table.column("text") == [text for text, _ in rows]
    assert table.column("id") == [number for _, number in rows]


@settings(max_examples=150, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(st.sampled_from('a,"\n\r;\t\\x{}[]:1\x00\ud800é'), max_size=60).map(
            lambda text: text.encode("utf-8", "surrogatepass")
        ),
    ),
    head=st.sampled_from(
        [b"", b"text,label\n", b'{"text": "a"}\n', b"PAR1", b"\x93NUMPY\x01\x00", b"PK\x03\x04"]
    ),
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet", ".npy", ".npz", ".arrow"]),
    skip=st.booleans(),
)
def test_no_bytes_raise_anything_but_table_errors(
    folder: Path, content: bytes, head: bytes, suffix: str, skip: bool
) -> None:
    file = folder / f"bytes{suffix}"
    file.write_bytes(head + content)
    try:
        table = read_table(file, on_bad_row="skip" if skip else "error")
        table.rows(range(len(table)))
        said = table.name
    except NearfarError as error:
        said = str(error)
    assert file.name in said


def test_csv_marks_blank_lines_byte_order_and_other_separators(folder: Path) -> None:
    file = folder / "bom.csv"
    file.write_bytes(b"\xef\xbb\xbftext;score\r\na, b;1\r\n\r\nc;2\r\n")
    table = read_table(file)
    assert table.rows([0, 1]) == {"text": ["a, b", "c"], "score": [1.0, 2.0]}
    assert table.row_numbers([1]) == [2]
    assert any("semicolons" in note for note in table.notes)


def test_words_that_other_parsers_take_for_missing_stay_text(folder: Path) -> None:
    words = ["NA", "null", "None", "nan", "007", "true"]
    file = folder / "words.csv"
    file.write_text("text\n" + "\n".join(words) + "\n")
    assert read_table(file).column("text") == words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\nfine,a\none,two,three\n", "row 2: has 3 cells where the header has 2"),
        (b'text,label\nfine,a\n"two\nlines",b\nx\n', "row 3: has 1 cell where the header has 2"),
        (b"text,label\nfine,a\nb\xe9d,b\n", "row 2, column 'text': byte 0xE9 at character 2"),
        (b"te\xe9xt,label\nfine,a\n", "header: byte 0xE9"),
        (b'text,label\nfine,a\n"open,b\nc,d\n', "row 2: a quote that opens in this row never closes"),
        (b'text,label\nfine,a\n"a"b,c\n', "row 2: the quoting is broken"),
        (b"text,text\na,b\n", "names a column twice: 'text'"),
        (b"", "is empty"),
        (b"text,label\n", "has no rows"),
    ],
)
def test_csv_errors_name_row_and_column(folder: Path, content: bytes, message: str) -> None:
    file = folder / "broken.csv"
    file.write_bytes(content)
    with pytest.raises(TableError, match=r"broken\.csv") as error:
        read_table(file)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b"', "row 2: is not valid JSON"),
        ("[1]", "row 2: holds [1] where an object"),
        ('{"text": 5}', "row 2, column 'text': holds 5 where most rows hold a value of kind text"),
        (r'{"text": "\ud800"}', "row 2, column 'text': character 1 of the cell is the lone surrogate U+D800"),
        ('{"other": "b"}', "row 2, column 'text': the cell is empty"),
        ('{"text": null}', "row 2, column 'text': the cell is empty"),
        ('{"text": " "}', "row 2, column 'text': the text is empty"),
        ("[" * 100_000, "row 2: is not valid JSON"),
    ],
)
def test_jsonl_errors_name_the_line(folder: Path, line: str, message: str) -> None:
    file = folder / "broken.jsonl"
    file.write_text(f'{{"text": "a"}}\n{line}\n\n{{"text": "c"}}\n')
    with pytest.raises(TableError) as error:
        read_table(file, {"text": Text})
    assert message in str(error.value)
    kept = read_table(file, {"text": Text}, on_bad_row="skip")
    assert kept.column("text") == ["a", "c"]
    assert kept.row_numbers([0, 1]) == [1, 3]


def test_json_list_and_nested_columns(folder: Path) -> None:
    file = folder / "list.json"
    file.write_text(json.dumps([{"text": "a", "meta": {"x": 1}}, {"text": "b", "meta": {}}], indent=1))
    table = read_table(file)
    assert table.column("text") == ["a", "b"]
    assert any("'meta'" in note for note in table.notes)


def test_parquet_keeps_types_class_names_and_pictures(folder: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    data = pa.table(
        {
            "image": pa.array([{"bytes": encoded(c), "path": None} for c in colours]),
            "vector": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64())),
            "score": pa.array([1, 2, 3], pa.int32()),
            "label": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    pq.write_table(data, folder / "typed.parquet")
    table = read_table(folder / "typed.parquet")
    assert table.kinds == {"image": Image, "label": Label, "score": Number, "vector": Vector}
    rows = table.rows([2, 0])
    assert [p.getpixel((0, 0)) for p in rows["image"]] == [colours[2], colours[0]]
    assert [p.mode for p in rows["image"]] == ["RGB", "RGB"]
    np.testing.assert_array_equal(rows["vector"], np.array([[5, 6], [1, 2]], np.float32))
    assert rows["vector"][0].dtype == np.float32
    assert rows["score"] == [3.0, 1.0]
    assert [table.label_names["label"][i] for i in rows["label"]] == ["a", "a"]


def test_plain_bytes_are_pictures_if_they_begin_like_pictures(folder: Path) -> None:
    pq.write_table(
        pa.table({"img": [encoded((1, 2, 3), kind) for kind in ("PNG", "GIF", "WEBP")]}), folder / "b.parquet"
    )
    table = read_table(folder / "b.parquet", {"image": Image})
    assert len(table.column("image")) == 3
    pq.write_table(pa.table({"img": [b"no picture"]}), folder / "c.parquet")
    with pytest.raises(TableError, match=r"row 1, column 'img'.*cannot be decoded"):
        read_table(folder / "c.parquet", {"image": Image})


def test_arrow_folder_is_read_in_place_with_its_class_names(folder: Path) -> None:
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["cold", "hot"])})
    dataset = Dataset.from_dict({"sentence": ["x y", "z"], "label": [1, 0]}, features=features)
    dataset.save_to_disk(str(folder / "saved"))
    table = read_table(folder / "saved")
    assert table.rows([0]) == {"text": ["x y"], "label": [1]}
    assert table.label_names == {"label": ["cold", "hot"]}
    DatasetDict({"train": dataset}).save_to_disk(str(folder / "several"))
    with pytest.raises(TableError, match=r"holds several tables: name one of .*several/train"):
        read_table(folder / "several")


def test_folder_of_pictures_with_classes_and_splits(folder: Path) -> None:
    root = folder / "pictures"
    for split, label, colour in [
        ("train", "cat", (9, 9, 9)),
        ("train", "dog", (5, 5, 5)),
        ("test", "cat", (1, 1, 1)),
    ]:
        (root / split / label).mkdir(parents=True, exist_ok=True)
        (root / split / label / "one.png").write_bytes(encoded(colour))
    table = read_table(root)
    assert set(table.kinds) == {"image", "label", "split"}
    rows = table.rows(range(3))
    assert [table.label_names["label"][i] for i in rows["label"]] == ["cat", "cat", "dog"]
    assert rows["image"][0].getpixel((0, 0)) == (1, 1, 1)
    (root / "train" / "dog" / "two.png").write_bytes(encoded((1, 1, 1))[:-30])
    with pytest.raises(
        TableError, match=r"row 4, column 'image': the picture train/dog/two\.png cannot be decoded"
    ):
        read_table(root)


def test_cut_off_jpeg_is_unreadable(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (folder / "jpegs").mkdir()
    Pictures.fromarray(noise).save(folder / "jpegs" / "a.jpg")
    whole = (folder / "jpegs" / "a.jpg").read_bytes()
    (folder / "jpegs" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableError, match=r"row 2.*b\.jpg cannot be decoded"):
        read_table(folder / "jpegs")


def test_sixteen_bit_grey_keeps_its_range(folder: Path) -> None:
    (folder / "deep").mkdir()
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Pictures.fromarray(levels).save(folder / "deep" / "a.png")
    [image] = read_table(folder / "deep").column("image")
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def test_folder_of_texts(folder: Path) -> None:
    root = folder / "texts"
    for label, name, content in [("a", "1.txt", b"first\nlines"), ("b", "2.txt", b"second")]:
        (root / label).mkdir(parents=True)
        (root / label / name).write_bytes(content)
    table = read_table(root)
    assert table.rows([0, 1]) == {"text": ["first\nlines", "second"], "label": [0, 1]}
    (root / "b" / "3.txt").write_bytes(b"caf\xe9")
    with pytest.raises(TableError, match=r"row 3, column 'text': file b/3\.txt: byte 0xE9 at position 4"):
        read_table(root)
    (root / "b" / "3.txt").write_bytes(b" ")
    with pytest.raises(TableError, match=r"row 3.*empty.*file b/3\.txt"):
        read_table(root)


def test_csv_column_of_picture_files_is_relative_to_the_csv(folder: Path) -> None:
    (folder / "set" / "img").mkdir(parents=True)
    (folder / "set" / "img" / "a.png").write_bytes(encoded((7, 8, 9)))
    (folder / "set" / "pairs.csv").write_text("filepath,title\nimg/a.png,a grey thing\n")
    table = read_table(folder / "set" / "pairs.csv", {"image": Image, "text": Text})
    assert table.role_columns == {"image": "filepath", "text": "title"}
    assert table.rows([0])["image"][0].getpixel((0, 0)) == (7, 8, 9)
    (folder / "set" / "pairs.csv").write_text("filepath,title\nimg/a.png,a thing\nimg/b.png,another thing\n")
    with pytest.raises(TableError, match=r"row 2, column 'filepath'.*b\.png cannot be read"):
        read_table(folder / "set" / "pairs.csv", {"image": Image, "text": Text})


@pytest.mark.parametrize("kind", [np.float16, np.float32, ">f8", np.int32, np.uint8])
def test_numpy_vectors(folder: Path, kind: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(kind)
    np.save(folder / "v.npy", array)
    np.savez_compressed(folder / "v.npz", vector=array, label=np.array(["x", "y", "x", "y"]))
    np.testing.assert_array_equal(read_table(folder / "v.npy").column("vector"), array.astype(np.float32))
    table = read_table(folder / "v.npz")
    np.testing.assert_array_equal(table.column("vector"), array.astype(np.float32))
    assert table.column("label") == [0, 1, 0, 1]


def test_numpy_pickles_are_refused(folder: Path) -> None:
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(TableError, match="not a NumPy file of plain arrays"):
        read_table(folder / "objects.npy")


def test_missing_files_and_unknown_kinds_say_what_is_there(folder: Path) -> None:
    (folder / "notes.csv").write_text("text\na\n")
    with pytest.raises(TableError, match=r"does not exist; did you mean .*notes\.csv"):
        read_table(folder / "note.csv")
    (folder / "notes.xlsx").write_bytes(b"")
    with pytest.raises(TableError, match=r"\.xlsx cannot be read as a table; these can: \.csv"):
        read_table(folder / "notes.xlsx")
    with pytest.raises(TableError, match="did you mean builtin:digits"):
        read_table("builtin:digit")


def test_a_file_is_converted_once_and_again_when_it_changes(folder: Path) -> None:
    file = folder / "changing.csv"
    file.write_text("text\nbefore\n")
    first = read_table(file)
    assert read_table(file).dataset.cache_files == first.dataset.cache_files
    file.write_text("text\nafter!\n")
    assert read_table(file).column("text") == ["after!"]
    assert first.column("text") == ["before"]


def test_python_values_frames_and_datasets_give_the_same_table() -> None:
    import pandas

    columns = {"text": ["a b", "c d"], "score": [0.5, 1.0], "vector": [[1.0, 2.0], [3.0, 4.0]]}
    tables = [
        read_table(columns),
        read_table(pandas.DataFrame(columns)),
        read_table(Dataset.from_dict(columns)),
        Table.from_columns(columns | {"vector": np.array(columns["vector"])}),
    ]
    assert len({table.fingerprint for table in tables}) == 1
    assert tables[0].rows([1])["text"] == ["c d"]
