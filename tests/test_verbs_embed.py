"""`embed`: every row once, in order, in parts that outlive a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import sentences
from samples import text_space, write_csv

from nearfar.data.table import read_table
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.space import Space
from nearfar.verbs import embed as verb
from nearfar.verbs.embed import embed

TEXTS = [text for text, _, _ in sentences()]


@pytest.fixture(scope="module")
def space() -> Space:
    return text_space(TEXTS)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The texts of every call of `Space.encode`; one that is "KILL" stops it."""
    calls: list[list[str]] = []
    original = Space.encode

    def encode(self: Space, rows: Any, *args: Any, **given: Any) -> np.ndarray:
        if "KILL" in rows:
            raise RuntimeError("killed")
        calls.append(list(rows))
        return original(self, rows, *args, **given)

    monkeypatch.setattr(Space, "encode", encode)
    return calls


def vectors(file: Path, column: str = "text") -> np.ndarray:
    return np.stack(pq.read_table(file)[column].to_numpy())


def test_a_file_holds_rows_vectors_and_the_columns_beside_them(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "WINDOW", 4)
    rows = [(text, positive, topic, i / 10) for i, (text, positive, topic) in enumerate(sentences()[:10])]
    table = write_csv(tmp_path / "t.csv", ["text", "positive", "label", "score"], rows)
    out = embed(space, table, tmp_path / "v.parquet")
    assert out == tmp_path / "v.parquet"
    vector = pa.list_(pa.float32(), 16)
    fields = [("row", pa.int64()), ("text", vector), ("positive", vector), ("label", pa.string()),
              ("score", pa.float64())]  # fmt: skip
    assert pq.read_schema(out).remove_metadata() == pa.schema(fields)
    content = pq.read_table(out).to_pydict()
    assert content["row"] == list(range(1, 11))
    assert content["label"] == [row[2] for row in rows]
    assert content["score"] == [row[3] for row in rows]
    for at, role in enumerate(("text", "positive")):
        expected = space.encode([row[at] for row in rows])
        np.testing.assert_allclose(vectors(out, role), expected, atol=1e-6)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["t.csv", "v.parquet"]


def test_what_was_done_before_a_kill_is_not_done_again(
    space: Space, encoded: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "WINDOW", 16)
    table = read_table({"text": TEXTS[:40]})
    whole = embed(space, table, tmp_path / "whole.parquet")
    assert [len(call) for call in encoded] == [16, 16, 8], "never more than a window in memory"
    out, parts = tmp_path / "cut.parquet", tmp_path / "cut.parquet.parts"
    encoded.clear()
    original = verb._write_part

    def killed(part: Path, *arguments: Any) -> None:
        if part.name.startswith("00000001"):
            (part.parent / f".{part.name}.77.partial").write_bytes(b"half of a part")
            raise RuntimeError("killed")
        original(part, *arguments)

    monkeypatch.setattr(verb, "_write_part", killed)
    with pytest.raises(RuntimeError, match="killed"):
        embed(space, table, out)
    assert not out.exists(), "a file that is there is whole"
    assert [place.name for place in sorted(parts.glob("*.parquet"))] == ["00000000.parquet"]
    monkeypatch.setattr(verb, "_write_part", original)
    embed(space, table, out)
    assert encoded == [TEXTS[:16], TEXTS[16:32], TEXTS[32:40]]
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize("other", ["table", "space", "window"])
def test_the_beginning_of_another_embedding_is_not_continued(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, encoded: list[list[str]]
) -> None:
    monkeypatch.setattr(verb, "WINDOW", 8)
    out = tmp_path / "v.parquet"
    with pytest.raises(RuntimeError, match="killed"):
        embed(space, read_table({"text": [*TEXTS[:15], "KILL"]}), out)
    rows = TEXTS[:16] if other == "table" else [*TEXTS[:15], "KILL"]
    chosen = text_space(TEXTS, seed=1) if other == "space" else space
    monkeypatch.setattr(verb, "WINDOW", 4 if other == "window" else 8)
    with pytest.raises(
        ArtefactError, match=r"v\.parquet\.parts holds the beginning of another embedding.*--overwrite"
    ):
        embed(chosen, read_table({"text": rows}), out)
    assert not out.exists()
    table = read_table({"text": TEXTS[:16]})
    embed(space, table, out, overwrite=True)
    np.testing.assert_allclose(vectors(out), space.encode(TEXTS[:16]), atol=1e-6)


def test_a_file_that_is_there_is_replaced_only_when_asked(space: Space, tmp_path: Path) -> None:
    out = embed(space, read_table({"text": TEXTS[:4]}), tmp_path / "v.parquet")
    before = out.read_bytes()
    table = read_table({"text": TEXTS[4:7]})
    with pytest.raises(ArtefactError, match=r"v\.parquet exists already.*--overwrite"):
        embed(space, table, out)
    assert out.read_bytes() == before
    embed(space, table, out, overwrite=True)
    np.testing.assert_allclose(vectors(out), space.encode(TEXTS[4:7]), atol=1e-6)


def test_rows_keep_the_numbers_of_the_file_when_others_are_left_out(
    space: Space, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [("a", "x"), (" ", "x"), ("b", "y"), ("c", "")])
    out = embed(space, table, tmp_path / "v.parquet", on_bad_row="skip")
    content = pq.read_table(out).to_pydict()
    assert (content["row"], content["label"]) == ([1, 3], ["x", "y"])
    assert "2 rows left out" in caplog.text
    assert str(table) in caplog.text


def test_a_table_that_the_space_cannot_read_is_refused(space: Space, tmp_path: Path) -> None:
    table = read_table({"vector": np.eye(4).tolist()})
    with pytest.raises(ArgumentError, match=r"the space encodes text; .* has vector \(vector\)"):
        embed(space, table, tmp_path / "v.parquet")
    with pytest.raises(ArgumentError, match="batch_size must be at least 1"):
        embed(space, read_table({"text": TEXTS}), tmp_path / "v.parquet", batch_size=0)
    assert not (tmp_path / "v.parquet").exists()
