"""WDiscOOD as a method: on a user's table, with any encoder, which it does not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sentences
from samples import tiny_text

from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError
from nearfar.heads.discriminant import WhitenedDiscriminant
from nearfar.methods.image.wdiscood import WDiscOOD
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit

SETTINGS = Settings(steps=1, batch_size=4)


def vectors(seed: int = 0, classes: str = "abc") -> Table:
    drawn = np.random.default_rng(seed)
    names = [classes[i % len(classes)] for i in range(90)]
    rows = drawn.normal(size=(90, 5)) + [[4 * ord(name), 0, 0, 0, 0] for name in names]
    return Table.from_columns({"vector": rows.astype(np.float32), "label": names})


def test_the_detector_is_fitted_to_what_the_space_encodes_and_the_encoder_stays() -> None:
    table = vectors()
    torch.manual_seed(0)
    encoder = MLPVector(5, 16, 6, layers=1)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    made = WDiscOOD(encoder, residual_weight=2.0)
    assert not made.space().parts
    run = train(made, table, SETTINGS)
    assert (run.steps, run.losses) == (0, [])
    space = made.space()
    z = torch.from_numpy(space.encode(table.column("vector")))
    again = WhitenedDiscriminant(6, 3, residual_weight=2.0)
    again.fit(z, torch.tensor(table.column("label")))
    assert torch.equal(space.parts["detector"](z), again(z))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("normalize", [False, True])
def test_features_keep_their_length_unless_they_are_normalised(normalize: bool) -> None:
    table = vectors()
    torch.manual_seed(0)
    made = WDiscOOD(MLPVector(5, 16, 6, layers=1), normalize=normalize)
    train(made, table, SETTINGS)
    space = made.space()
    lengths = np.linalg.norm(space.encode(table.column("vector")), axis=1)
    assert bool(np.allclose(lengths, 1, atol=1e-5)) == normalize
    assert space.geometry == ("cosine" if normalize else "euclidean")


def test_a_class_of_the_table_without_training_rows_takes_no_part() -> None:
    table = vectors()
    some = table.select([i for i in range(90) if i % 3 != 1])  # no "b": labels are 0 and 2
    made = WDiscOOD(MLPVector(5, 16, 6, layers=1))
    train(made, some, SETTINGS)
    assert made.detector is not None
    assert made.detector.classes == 2


def test_texts_are_read_too_and_the_space_is_the_same_after_saving(tmp_path: Path) -> None:
    rows = sentences()
    texts = [row[0] for row in rows]
    made = WDiscOOD(tiny_text(texts), shrinkage=0.1)
    train(made, Table.from_columns({"text": texts, "label": [row[2] for row in rows]}), SETTINGS)
    space = made.space()
    space.save(tmp_path / "space")
    again = Space.load(tmp_path / "space")
    z = space.encode(texts[:9])
    assert np.array_equal(again.encode(texts[:9]), z)
    scores = space.parts["detector"](torch.from_numpy(z))
    assert torch.equal(again.parts["detector"](torch.from_numpy(z)), scores)
    assert (again.score(z, z).argmax(axis=1) == np.arange(9)).all()


@pytest.mark.parametrize("wrong", [{"directions": 0}, {"residual_weight": -1.0}, {"shrinkage": 2.0}])
def test_hyperparameters_out_of_range_are_refused_before_anything_is_encoded(wrong: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        WDiscOOD(MLPVector(5, 16, 6, layers=1), **wrong)  # type: ignore[arg-type]


def test_one_class_alone_is_refused_by_name() -> None:
    with pytest.raises(TableError, match="at least two labels"):
        train(WDiscOOD(MLPVector(5, 16, 6, layers=1)), vectors(classes="a"), SETTINGS)


def test_a_table_without_classes_is_told_how_to_name_them(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text("text\n" + "\n".join(row[0] for row in sentences()[:9]) + "\n", encoding="utf-8")
    with pytest.raises(TableError, match="--column label="):
        fit("wdiscood", path, tmp_path / "out", encoder="tiny")


def test_fit_measures_saves_and_leaves_a_detector(pairs_csv: Path, tmp_path: Path) -> None:
    given = {"shrinkage": "0.1", "residual_weight": 1}  # as the command line hands them over
    fit("wdiscood", pairs_csv, tmp_path / "space", encoder="tiny", hyperparameters=given)
    space = Space.load(tmp_path / "space")
    assert space.parts["detector"].settings()["residual_weight"] == 1
    assert space.card["hyperparameters"] == {"shrinkage": 0.1, "residual_weight": 1.0}
    assert space.card["measures"]
