"""`detect`: rows that are foreign to what a space was fitted to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import nearfar
from samples import text_space

from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads.discriminant import WhitenedDiscriminant
from nearfar.measures.ood import ood_metrics
from nearfar.space import Space
from nearfar.verbs.detect import detect


def rows(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(seed)
    # Layer norm sees directions: the classes lie away from the origin, what is foreign on its other side.
    centres = np.where(np.arange(n)[:, None] % 2, [14, 8, 8, 8], [8, 8, 8, 8]) - np.outer(shift, [0, 1, 1, 0])
    return (drawn.normal(size=(n, 4)) + centres).astype(np.float32)


def vector_file(path: Path, x: np.ndarray) -> Path:
    lines = [json.dumps({"vector": row.tolist()}) for row in x]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = MLPVector(4, 64, 8, layers=1)
    made = Space({"vector": encoder}, geometry="euclidean")
    detector = WhitenedDiscriminant(8, 2)
    x = rows(400, 0)
    detector.fit(torch.from_numpy(made.encode(list(x))), torch.arange(400) % 2)
    made.parts["detector"] = detector
    return made.save(tmp_path_factory.mktemp("spaces") / "space")


def test_rows_of_the_kind_are_at_home_and_others_are_foreign(space: Path, tmp_path: Path) -> None:
    table = np.concatenate([rows(200, 1), rows(50, 2, shift=30)])
    found = detect(space, vector_file(tmp_path / "new.jsonl", table))
    assert found.rows == list(range(1, 251))
    assert found.foreign[:200].mean() < 0.15
    assert found.foreign[200:].all()
    assert found.against is None


def test_the_file_has_a_line_for_each_row_and_its_numbers_are_those_of_the_table(
    space: Path, tmp_path: Path
) -> None:
    x = rows(12, 1)
    source = vector_file(tmp_path / "new.jsonl", x)
    lines = source.read_text(encoding="utf-8").splitlines()
    lines[4] = '{"vector": [1, 2]}'
    source.write_text("\n".join(lines), encoding="utf-8")
    found = detect(space, source, out=tmp_path / "scores.csv", on_bad_row="skip")
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [int(line["row"]) for line in read] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert [float(line["score"]) for line in read] == found.scores.tolist()
    assert {float(line["threshold"]) for line in read} == {found.threshold}
    assert [line["foreign"] == "yes" for line in read] == found.foreign.tolist()
    with pytest.raises(ArtefactError, match="--overwrite"):
        detect(space, source, out=tmp_path / "scores.csv", on_bad_row="skip")
    detect(space, source, out=tmp_path / "scores.csv", on_bad_row="skip", overwrite=True)


def test_figures_against_another_table_are_those_of_the_scores(space: Path) -> None:
    inside = Table.from_columns({"vector": rows(90, 3)})
    outside = Table.from_columns({"vector": rows(60, 4, shift=1.5)})
    found = detect(space, inside, against=outside)
    assert found.against == ood_metrics(found.scores, detect(space, outside).scores)
    assert 0.5 < found.against.auroc < 1


def test_a_space_without_detector_says_how_to_fit_one(tmp_path: Path, pairs_csv: Path) -> None:
    place = text_space(["a note", "another one"]).save(tmp_path / "plain")
    with pytest.raises(ArgumentError, match=r"plain has no detector.*nearfar fit wdiscood TABLE --out NEW"):
        detect(place, pairs_csv)


def test_a_table_that_the_space_cannot_read_is_refused(space: Path, pairs_csv: Path) -> None:
    with pytest.raises(ArgumentError, match=r"the space reads vector.*--column vector="):
        detect(space, pairs_csv)


def test_the_command_prints_a_table_for_people_and_json_for_machines(space: Path, tmp_path: Path) -> None:
    new = vector_file(tmp_path / "new.jsonl", np.concatenate([rows(30, 1), rows(1, 2, shift=30)]))
    other = vector_file(tmp_path / "other.jsonl", rows(20, 5, shift=30))
    out = tmp_path / "scores.csv"
    said = nearfar("detect", space, new, "--out", out, "--against", other).stdout
    assert "of 31 rows are foreign" in said
    assert "AUROC" in said
    assert f"written to {out}" in said
    assert said.splitlines()[4].split()[0] == "31", "the most foreign row comes first"
    read = json.loads(nearfar("detect", space, new, "--json").stdout)
    assert (len(read["rows"]), read["foreign"][-1], read["against"]) == (31, True, None)
    assert read["scores"] == detect(space, new).scores.tolist()
