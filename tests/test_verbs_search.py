"""`search`: the right rows, from an index that is built once and again only when it must be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import sentences
from PIL import Image as Pictures
from samples import text_space, write_csv

from nearfar.data.table import read_table
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError
from nearfar.space import Space
from nearfar.verbs.search import search_table

ROWS = sentences()
TEXTS = [row[0] for row in ROWS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [cell for row in ROWS for cell in row[:2]]
    return text_space(texts).save(tmp_path_factory.mktemp("spaces") / "space")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "space"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each call of `Space.encode` was given."""
    calls: list[int] = []
    original = Space.encode

    def encode(self: Space, rows: Any, *args: Any, **given: Any) -> np.ndarray:
        calls.append(len(rows))
        return original(self, rows, *args, **given)

    monkeypatch.setattr(Space, "encode", encode)
    return calls


def test_a_row_is_found_by_its_own_text(folder: Path, pairs_csv: Path) -> None:
    queries = [TEXTS[100], TEXTS[3]]
    found = search_table(folder, pairs_csv, queries, k=4, role="text")
    assert [hits[0].row for hits in found] == [101, 4]
    for hits, row in zip(found, (100, 3), strict=True):
        assert len(hits) == 4
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        assert hits[0].cells == {"text": ROWS[row][0], "positive": ROWS[row][1], "label": ROWS[row][2]}
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len({hit.row for hit in hits}) == 4
        for hit in hits:
            assert hit.cells["text"] == TEXTS[hit.row - 1]


def test_answers_are_the_nearest_of_all_rows(folder: Path, pairs_csv: Path) -> None:
    space = Space.load(folder)
    scores = space.score(space.encode(["snow by the road"]), space.encode([row[1] for row in ROWS]))[0]
    [hits] = search_table(space, pairs_csv, ["snow by the road"], k=7)
    assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:7], abs=1e-6)
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.row - 1], abs=1e-6)


def test_the_column_positive_is_searched_unless_another_is_asked_for(folder: Path, pairs_csv: Path) -> None:
    query = ROWS[50][1]
    [[best]] = search_table(folder, pairs_csv, [query], k=1)
    assert (best.cells["positive"], best.score) == (query, pytest.approx(1, abs=1e-5))
    alone = read_table({"text": TEXTS})
    assert search_table(folder, alone, [TEXTS[7]], k=1)[0][0].row == 8


def test_the_index_is_kept_with_the_space(folder: Path, pairs_csv: Path, encoded: list[int]) -> None:
    first = search_table(folder, pairs_csv, ["rain"])
    assert encoded == [144, 1]
    [kept] = (folder / "indexes").iterdir()
    assert search_table(folder, pairs_csv, ["rain"]) == first
    search_table(folder, str(pairs_csv), ["snow", "fog"], k=2)
    assert encoded == [144, 1, 1, 2], "the table is not encoded again"
    assert list((folder / "indexes").iterdir()) == [kept]
    search_table(folder, pairs_csv, ["rain"], role="text")
    assert encoded[-2:] == [144, 1]
    assert len(list((folder / "indexes").iterdir())) == 2


def test_the_index_is_built_anew_when_the_table_has_changed(
    folder: Path, tmp_path: Path, encoded: list[int]
) -> None:
    table = write_csv(tmp_path / "t.csv", ["text"], [(text,) for text in TEXTS[:20]])
    assert search_table(folder, table, ["a comet"], k=1)[0][0].score < 0.999
    write_csv(table, ["text"], [("a comet",), *((text,) for text in TEXTS[:20])])
    [[hit]] = search_table(folder, table, ["a comet"], k=1)
    assert (hit.row, hit.cells["text"]) == (1, "a comet")
    assert encoded == [20, 1, 21, 1]
    assert len(list((folder / "indexes").iterdir())) == 1


def test_the_index_is_built_anew_when_the_space_has_changed(
    folder: Path, pairs_csv: Path, encoded: list[int]
) -> None:
    search_table(folder, pairs_csv, ["rain"])
    indexes = folder.parent / "kept"
    shutil.move(folder / "indexes", indexes)
    other = text_space([cell for row in ROWS for cell in row[:2]], seed=1)
    other.save(folder, overwrite=True)
    encoded.clear()
    [[hit]] = search_table(folder, pairs_csv, [ROWS[9][1]], k=1, folder=indexes)
    assert encoded == [144, 1]
    assert hit.cells["positive"] == ROWS[9][1]
    assert len(list(indexes.iterdir())) == 1


def test_a_space_in_memory_keeps_nothing_unless_told_where(
    folder: Path, pairs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    search_table(Space.load(folder), pairs_csv, ["rain"])
    assert sorted(tmp_path.rglob("*")) == before
    search_table(Space.load(folder), pairs_csv, ["rain"], folder=tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_rows_are_numbered_as_in_the_file(folder: Path, tmp_path: Path) -> None:
    rows = [(" ",), ("a cat",), ("",), ("a dog",)]
    table = write_csv(tmp_path / "t.csv", ["text", "label"], [(*row, "x") for row in rows])
    [hits] = search_table(folder, table, ["a dog"], k=10, on_bad_row="skip")
    assert [(hit.row, hit.cells["text"]) for hit in hits] == [(4, "a dog"), (2, "a cat")]


def test_pictures_are_found_by_pictures_and_by_the_names_of_their_files(tmp_path: Path) -> None:
    colours = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "grey": (90, 90, 90)}
    (tmp_path / "album").mkdir()
    for name, colour in colours.items():
        Pictures.new("RGB", (8, 8), colour).save(tmp_path / "album" / f"{name}.png")
    pictures = [Pictures.new("RGB", (8, 8), colour) for colour in colours.values()]
    space = Space({"image": ConvNet.fitted(pictures)})
    names = sorted(colours)
    for query in (Pictures.new("RGB", (8, 8), colours["green"]), str(tmp_path / "album" / "green.png")):
        [[hit]] = search_table(space, tmp_path / "album", [query], k=1)
        assert names[hit.row - 1] == "green"
    (tmp_path / "fake.png").write_text("no picture")
    with pytest.raises(ArgumentError, match=r"fake\.png' is no picture that can be read"):
        search_table(space, tmp_path / "album", [str(tmp_path / "fake.png")])
    with pytest.raises(ArgumentError, match="green"):
        search_table(space, tmp_path / "album", ["green"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queries": []}, "queries must be a list with at least one example"),
        ({"queries": "rain"}, "queries must be a list"),
        ({"queries": [np.ones(3, np.float32)]}, "text"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"role": "answer"}, "no role 'answer'; it has text, positive, label"),
        ({"modality": "image"}, "modality must be one of text, not 'image'"),
        ({"table": {"vector": np.eye(3).tolist()}}, "the space encodes text; .* has no such column"),
    ],
)
def test_wrong_arguments_are_named(saved: Path, pairs_csv: Path, given: dict[str, Any], message: str) -> None:
    table = read_table(given.pop("table")) if "table" in given else pairs_csv
    with pytest.raises(ArgumentError, match=message):
        search_table(Space.load(saved), table, **{"queries": ["rain"], **given})
