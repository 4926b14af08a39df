"""`link` and `cluster`: the same thing in two tables, and in one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import nearfar
from samples import text_space, write_csv

from nearfar.data.kinds import Label, Text
from nearfar.data.table import Table
from nearfar.errors import ArgumentError, ArtefactError, TableError
from nearfar.measures.clustering import clustering_metrics
from nearfar.search.clustering import single_linkage
from nearfar.space import Space
from nearfar.verbs.cluster import cluster
from nearfar.verbs.link import link

NAMES = ["red lamp of glass", "blue lamp of glass", "steel kettle", "wooden chair", "small wooden table"]
LEFT = [NAMES[3], NAMES[0], "kettle of steel", "a boat"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_space([*NAMES, *LEFT]).save(tmp_path_factory.mktemp("spaces") / "space")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    left = write_csv(tmp_path / "left.csv", ["text"], [[text] for text in LEFT])
    return left, write_csv(tmp_path / "right.csv", ["text"], [[text] for text in NAMES])


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# -- link ------------------------------------------------------------------------------------------


def test_equal_rows_are_linked_and_a_threshold_leaves_the_others_alone(
    space: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    made = Space.load(space)
    scores = made.score(made.encode(LEFT), made.encode(NAMES))
    every = link(space, *tables)
    assert every.left == [1, 2, 3, 4]
    assert every.nearest == every.right == (scores.argmax(1) + 1).tolist()
    assert np.allclose(every.scores, scores.max(1), atol=1e-6)
    assert every.threshold is None
    found = link(space, *tables, threshold=0.9999, out=tmp_path / "links.csv")
    assert found.right == [4, 1, None, None]
    lines = read_csv(tmp_path / "links.csv")
    assert [line["right"] for line in lines] == ["4", "1", "", ""]
    assert [line["left"] for line in lines] == ["1", "2", "3", "4"]
    assert [int(line["nearest"]) for line in lines] == every.nearest
    assert [float(line["score"]) for line in lines] == pytest.approx(found.scores.tolist(), rel=1e-7)


def test_rows_that_were_skipped_keep_the_numbers_of_the_others(space: Path, tmp_path: Path) -> None:
    left = write_csv(tmp_path / "left.csv", ["text"], [["a boat"], [""], [NAMES[1]]])
    right = write_csv(tmp_path / "right.csv", ["text"], [[""], *([text] for text in NAMES)])
    with pytest.raises(TableError, match="row 2"):
        link(space, left, right)
    found = link(space, left, right, threshold=0.9999, on_bad_row="skip")
    assert (found.left, found.right) == ([1, 3], [None, 3])
    known = write_csv(tmp_path / "known.csv", ["left", "right"], [[3, 3], [1, ""]])
    tuned = link(space, left, right, known=known, on_bad_row="skip")
    assert tuned.known is not None
    assert (tuned.known.f1, tuned.known.accuracy) == (1, 1)
    wrong = write_csv(tmp_path / "wrong.csv", ["left", "right"], [[3, 3], [2, 4]])
    with pytest.raises(TableError, match=r"row 2, column 'left': .*2.* no row that was read from the left"):
        link(space, left, right, known=wrong, on_bad_row="skip")


def test_the_threshold_is_tuned_on_known_pairs_and_the_output_may_be_such_pairs(
    space: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    known = write_csv(tmp_path / "known.csv", ["left", "right"], [[1, 4], [2, 1], [4, ""]])
    found = link(space, *tables, known=known, out=tmp_path / "links.jsonl")
    assert found.tuned
    assert found.threshold is not None
    assert found.scores[3] < found.threshold < min(found.scores[:2])
    assert found.known is not None
    assert (found.known.f1, found.known.n) == (1, 3)
    lines = [json.loads(line) for line in (tmp_path / "links.jsonl").read_text().splitlines()]
    assert [line["right"] for line in lines] == found.right
    again = link(space, *tables, known=tmp_path / "links.jsonl")
    assert again.known is not None
    assert again.known.accuracy == 1
    assert again.right == found.right
    given = link(space, *tables, known=known, threshold=-1)
    assert not given.tuned
    assert given.known is not None
    assert (given.known.precision, given.known.recall, given.known.accuracy) == (
        pytest.approx(2 / 3),
        1,
        pytest.approx(2 / 3),
    )


def test_known_pairs_that_say_nothing_are_refused(
    space: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    empty = write_csv(tmp_path / "empty.csv", ["left", "right"], [[1, ""], [2, ""]])
    with pytest.raises(TableError, match="names no pair"):
        link(space, *tables, known=empty)
    other = write_csv(tmp_path / "other.csv", ["left", "match"], [[1, 4]])
    with pytest.raises(TableError, match="no column 'right'"):
        link(space, *tables, known=other)
    words = write_csv(tmp_path / "words.csv", ["left", "right"], [[1, "four"], [2, 1]])
    with pytest.raises(TableError, match=r"row 1, column 'right': 'four'"):
        link(space, *tables, known=words)


def test_a_file_is_written_once_and_in_a_format_that_its_name_says(
    space: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"out must end in \.csv, \.jsonl, \.parquet, not 'links.txt'"):
        link(space, *tables, out=tmp_path / "links.txt")
    out = tmp_path / "links.parquet"
    found = link(space, *tables, threshold=0.9999, out=out)
    frame = pd.read_parquet(out)
    assert frame["right"].isna().tolist() == [False, False, True, True]
    assert frame["right"][:2].tolist() == [4, 1]
    assert np.array_equal(frame["score"].to_numpy(np.float32), found.scores)
    with pytest.raises(ArtefactError, match="--overwrite"):
        link(space, *tables, out=out)
    link(space, *tables, out=out, overwrite=True)


def test_the_command_links_for_people_and_for_machines(
    space: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    known = write_csv(tmp_path / "known.csv", ["left", "right"], [[1, 4], [2, 1], [4, ""]])
    said = nearfar("link", space, *tables, "--known", known, "--out", tmp_path / "links.csv").stdout
    assert "of 4 rows are linked (score at least" in said
    assert "on the pairs it was tuned on: precision 1.0000" in said
    assert f"written to {tmp_path / 'links.csv'}" in said
    read = json.loads(nearfar("link", space, *tables, "--threshold", "0.9999", "--json").stdout)
    assert (read["right"], read["known"], read["threshold"]) == ([4, 1, None, None], None, 0.9999)


# -- cluster ---------------------------------------------------------------------------------------

COPIES = [NAMES[2], NAMES[0], NAMES[2], "a boat", NAMES[0]]


def test_copies_are_one_cluster_and_what_is_alone_stays_alone(space: Path, tmp_path: Path) -> None:
    table = Table.from_columns({"text": COPIES}, {"text": Text})
    found = cluster(space, table, threshold=0.9999, out=tmp_path / "clusters.csv")
    assert found.clusters == [1, 2, 1, 3, 2]
    assert found.agreement is None
    lines = read_csv(tmp_path / "clusters.csv")
    assert [(line["row"], line["cluster"]) for line in lines] == [
        ("1", "1"),
        ("2", "2"),
        ("3", "1"),
        ("4", "3"),
        ("5", "2"),
    ]
    made = Space.load(space)
    for at in (0.3, 0.8):
        clusters = cluster(made, table, threshold=at).clusters
        assert np.array_equal(np.array(clusters) - 1, single_linkage(made.encode(COPIES)).clusters(at))


def test_the_threshold_is_tuned_on_other_rows_with_labels(space: Path) -> None:
    kinds = {"text": Text, "label": Label}
    labelled = Table.from_columns({"text": [*NAMES, *NAMES], "label": [*"abcde", *"abcde"]}, kinds)
    table = Table.from_columns({"text": COPIES, "label": ["k", "l", "k", "b", "l"]}, kinds)
    found = cluster(space, table, labelled=labelled)
    assert found.tuned
    assert found.clusters == [1, 2, 1, 3, 2]
    assert found.agreement == clustering_metrics(found.clusters, table.column("label"))
    assert found.agreement.ari == 1
    assert cluster(space, table, threshold=found.threshold).clusters == found.clusters


def test_a_threshold_comes_from_one_place(space: Path) -> None:
    table = Table.from_columns({"text": COPIES}, {"text": Text})
    for given in ({}, {"threshold": 0.5, "labelled": table}):
        with pytest.raises(ArgumentError, match=r"--threshold 0.8.*--labelled FILE.*one of the two"):
            cluster(space, table, **given)
    with pytest.raises(ArgumentError, match=r"no labels to tune on.*--column label="):
        cluster(space, table, labelled=table)


def test_the_command_clusters_for_people_and_for_machines(space: Path, tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "copies.csv", ["text", "label"], zip(COPIES, ["k", "l", "k", "b", "l"], strict=True)
    )
    out = tmp_path / "clusters.jsonl"
    said = nearfar("cluster", space, table, "--threshold", "0.9999", "--out", out).stdout
    assert said.startswith("5 rows are 3 clusters, 1 of one row (score at least 0.9999); the largest:")
    assert "against the labels: ARI 1.0000" in said
    assert f"written to {out}" in said
    assert json.loads(out.read_text().splitlines()[2]) == {"row": 3, "cluster": 1}
    read = json.loads(nearfar("cluster", space, table, "--threshold", "0.9999", "--json").stdout)
    assert (read["clusters"], read["tuned"]) == ([1, 2, 1, 3, 2], False)
    assert read["agreement"]["ari"] == 1
