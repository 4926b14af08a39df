"""`measure`: a space on a table, or bare vectors, with the same numbers either way."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import sentences
from samples import text_space

from nearfar.data.table import read_table
from nearfar.errors import ArgumentError, TableError
from nearfar.measures.alignment import alignment, uniformity
from nearfar.space import Space
from nearfar.verbs.embed import embed
from nearfar.verbs.measure import MEASURED, measure

ROWS = sentences()
RANDOM = np.random.default_rng(0)
BARE = {"uniformity", "effective_rank", "effective_rank_share", "isotropy", "hubness", "antihubs", "collapse"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [cell for row in ROWS for cell in row[:2]]
    return text_space(texts).save(tmp_path_factory.mktemp("spaces") / "space")


def test_a_table_tells_what_is_measured(folder: Path, pairs_csv: Path, tmp_path: Path) -> None:
    found = measure(folder, pairs_csv)
    assert set(found) >= BARE | {"alignment", "mrr@10", "recall@10", "knn_accuracy", "clustering_nmi"}
    space = Space.load(folder)
    x, y = space.encode([row[0] for row in ROWS]), space.encode([row[1] for row in ROWS])
    assert found["alignment"].value == pytest.approx(alignment(x, y), rel=1e-5)
    assert found["alignment"].n == 144
    alone = measure(space, read_table({"text": [row[0] for row in ROWS]}))
    assert set(alone) == BARE
    assert alone["uniformity"].value == pytest.approx(uniformity(x), rel=1e-5)


def test_one_column_under_two_roles_is_no_pair(folder: Path, pairs_csv: Path) -> None:
    found = measure(folder, pairs_csv, columns={"text": "text", "positive": "text"})
    assert "alignment" not in found
    assert found["uniformity"].value == measure(folder, pairs_csv)["uniformity"].value


def test_vectors_measure_as_the_space_that_made_them(folder: Path, pairs_csv: Path, tmp_path: Path) -> None:
    """Without the texts nobody knows which are equal, so only what does not depend on it can agree."""
    file = embed(folder, pairs_csv, tmp_path / "v.parquet")
    space, vectors = measure(folder, pairs_csv), measure(file)
    assert set(vectors) >= {"alignment", "mrr@10", "knn_accuracy", "clustering_nmi"}
    for name in ("alignment", "mean_positive_cosine"):
        assert vectors[name].value == pytest.approx(space[name].value, abs=1e-5)
    for name in ("knn_accuracy", "clustering_nmi", "clustering_ari"):
        assert 0 <= vectors[name].value <= 1
    assert vectors["knn_accuracy"].value == pytest.approx(space["knn_accuracy"].value, abs=0.1)


def test_arrays_files_of_arrays_and_dictionaries_agree(tmp_path: Path) -> None:
    x = RANDOM.standard_normal((60, 5)).astype(np.float32)
    y = x + 0.3 * RANDOM.standard_normal((60, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    bare = measure(x)
    assert set(bare) == BARE
    assert measure(tmp_path / "x.npy") == bare
    pair = measure({"text": x, "positive": y})
    assert pair["alignment"].value == pytest.approx(alignment(x, y), rel=1e-5)
    labels = read_table({"label": ["a", "b"] * 30, "text": [f"row {i}" for i in range(60)]})
    labelled = measure({"text": x}, labels)
    assert labelled["knn_accuracy"].n == 60
    assert labelled["uniformity"].value == bare["uniformity"].value


def test_columns_of_a_file_of_vectors_can_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", first=RANDOM.standard_normal((40, 4)), second=RANDOM.standard_normal((40, 4)),
             topic=np.array(["a", "b"] * 20))  # fmt: skip
    plain = measure(tmp_path / "v.npz")
    named = measure(tmp_path / "v.npz", columns={"vector": "first", "positive": "second", "label": "topic"})
    assert "knn_accuracy" not in plain
    assert {"knn_accuracy", "alignment", "mrr@10"} <= set(named)


class Outline(HTMLParser):
    """The tags of a page, the text of its cells, and what it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: set[str] = set()
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attributes}
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and not address.startswith(("data:", "#")):
            self.loaded.append(address)

    def handle_data(self, data: str) -> None:
        self.cells.add(data.strip())


def test_the_report_is_one_page_with_the_numbers_and_pictures(
    folder: Path, pairs_csv: Path, tmp_path: Path
) -> None:
    found = measure(folder, pairs_csv, report=tmp_path / "deep" / "page.html")
    assert [place.name for place in (tmp_path / "deep").iterdir()] == ["page.html"]
    source = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    page = Outline(source)
    assert page.tags[0] == "html"
    assert page.tags.count("table") >= 1
    assert page.loaded == []
    assert not re.search(r"@import|url\(\s*['\"]?https?:", source)
    shown = " ".join(page.cells)
    for name in ("uniformity", "alignment", "mrr@10", "knn_accuracy"):
        assert name in shown or name.replace("_", " ") in shown, name
        assert f"{found[name].value:.4f}" in page.cells, name


@pytest.mark.parametrize("report", [None, "page.html"])
def test_what_cannot_be_measured_is_said(
    folder: Path, pairs_csv: Path, tmp_path: Path, report: str | None
) -> None:
    x = RANDOM.standard_normal((9, 4)).astype(np.float32)
    x[4, 1] = np.nan
    np.save(tmp_path / "nan.npy", x)
    page = None if report is None else tmp_path / report
    with pytest.raises(
        TableError, match=r"nan\.npy, row 5, column 'vector': position 2 of the vector is nan"
    ):
        measure(tmp_path / "nan.npy", report=page)
    with pytest.raises(ArgumentError, match=r"vector.*row 5 holds NaN or infinity"):
        measure(x, report=page)
    with pytest.raises(ArgumentError, match="a space is measured on examples: give a table as well"):
        measure(folder, report=page)
    with pytest.raises(ArgumentError, match=r"no column of vectors, only text .*give a space and a table"):
        measure(pairs_csv, report=page)
    np.save(tmp_path / "short.npy", np.eye(4, dtype=np.float32))
    with pytest.raises(ArgumentError, match=r"holds 4 vectors and .* rows: the table says of every vector"):
        measure(tmp_path / "short.npy", pairs_csv, report=page)
    with pytest.raises(ArgumentError, match=r"the space encodes text; .*vector \(vector\).*--column"):
        measure(folder, read_table({"vector": np.eye(4).tolist()}), report=page)
    assert not (tmp_path / "page.html").exists()


def test_labels_of_a_file_of_vectors_may_come_from_a_table(tmp_path: Path) -> None:
    x = RANDOM.standard_normal((40, 4)).astype(np.float32)
    x[:20, 0] += 9
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "classes.csv").write_text("label\n" + "near\n" * 20 + "far\n" * 20)
    apart = measure(tmp_path / "x.npy", tmp_path / "classes.csv")
    same = measure({"vector": x}, read_table({"label": ["near"] * 20 + ["far"] * 20}, MEASURED))
    assert {name: one.value for name, one in apart.items()} == {name: one.value for name, one in same.items()}
    assert any("knn" in name for name in apart)


def test_bad_rows_of_vectors_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = RANDOM.standard_normal((30, 4)).astype(np.float32)
    bad = x.copy()
    bad[[3, 17]] = np.inf
    np.save(tmp_path / "bad.npy", bad)
    found = measure(tmp_path / "bad.npy", on_bad_row="skip")
    assert found == measure(np.delete(x, [3, 17], axis=0))
    assert (
        "2 rows left out: 2 with a number that is not finite in column 'vector' (rows 4, 18)" in caplog.text
    )


def test_one_label_only_is_said_and_the_rest_is_measured(folder: Path) -> None:
    found = measure(folder, read_table({"text": [row[0] for row in ROWS], "label": ["same"] * 144}))
    assert "need two classes" in found["left_out/label"].about
    assert set(found) == BARE | {"left_out/label"}
