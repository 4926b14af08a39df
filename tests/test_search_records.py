"""Records of several columns, and batches of their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from samples import text_space, tiny_text
from torch import nn

from nearfar.batching.classes import class_groups, neighbour_groups, one_of_each
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads import make_head
from nearfar.heads.fusion import WeightedMean
from nearfar.heads.projection import Projection
from nearfar.search.records import encode_records, encode_table, record_roles
from nearfar.space import Space

TEXTS = ["a cat", "a dog", "rain"]
PICTURES = [Pictures.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]


def both(**parts: nn.Module) -> Space:
    torch.manual_seed(0)
    encoders = {"text": tiny_text(TEXTS), "image": ConvNet(8, width=4, blocks=1)}
    return Space(encoders, {"text": Projection(16, 6), "image": Projection(4, 6)}, parts=parts)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1)[:, None]


# -- records ---------------------------------------------------------------------------------------


def test_a_record_is_the_direction_of_the_weighted_sum_of_unit_rows() -> None:
    space = both()
    t, v = space.encode(TEXTS, "text"), space.encode(PICTURES, "image")
    columns = {"text": TEXTS, "image": PICTURES}
    assert np.allclose(encode_records(space, columns), unit(t + v), atol=1e-6)
    space.parts["fusion"] = WeightedMean({"text": 1.5, "image": 0.5})
    assert np.allclose(encode_records(space, columns), unit(3 * t + v), atol=1e-6)
    assert np.allclose(
        space.parts["fusion"]({"text": torch.from_numpy(7 * t), "image": torch.from_numpy(2 * v)}),
        unit(3 * t + v),
        atol=1e-6,
    ), "lengths of the embeddings do not count"


def test_what_a_record_lacks_adds_nothing() -> None:
    space = both()
    t, v = space.encode(TEXTS, "text"), space.encode(PICTURES, "image")
    got = encode_records(
        space, {"text": [TEXTS[0], None, TEXTS[2]], "image": [PICTURES[0], PICTURES[1], None]}
    )
    assert np.allclose(got, np.stack([unit(t[:1] + v[:1])[0], v[1], t[2]]), atol=1e-5)
    assert np.allclose(encode_records(space, {"text": [None, None], "image": PICTURES[:2]}), v[:2], atol=1e-5)


def test_records_that_have_nothing_or_do_not_fit_are_refused() -> None:
    space = both()
    with pytest.raises(ArgumentError, match=r"record 2 has no text and no image to embed"):
        encode_records(space, {"text": ["a", None], "image": [PICTURES[0], None]})
    with pytest.raises(ArgumentError, match=r"all of one length; got \[1, 3\]"):
        encode_records(space, {"text": ["a"], "image": PICTURES})
    with pytest.raises(ArgumentError, match=r"encodes text, image, not sound"):
        encode_records(space, {"sound": ["a"]})
    space.parts["fusion"] = WeightedMean({"text": 1.0, "image": 0.0})
    with pytest.raises(ArgumentError, match=r"record 1 has no text to embed"):
        encode_records(space, {"image": PICTURES})


def test_a_hyperbolic_space_fuses_nothing_but_reads_one_column() -> None:
    space = both()
    space.geometry = "lorentz"
    with pytest.raises(
        ArgumentError, match=r"text and image are fused as directions.*one of the columns only"
    ):
        encode_records(space, {"text": TEXTS, "image": PICTURES})
    assert np.array_equal(encode_records(space, {"text": TEXTS}), space.encode(TEXTS, "text"))


def test_one_column_is_embedded_as_the_space_embeds_it() -> None:
    space = Space({"vector": MLPVector(4, 8, 3, layers=1)}, geometry="euclidean")
    rows = list(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    assert np.array_equal(encode_records(space, {"vector": rows}), space.encode(rows))
    assert not np.allclose(np.linalg.norm(space.encode(rows), axis=1), 1)


def test_a_table_is_read_by_its_own_columns_not_by_those_of_its_positives() -> None:
    table = Table.from_columns({"text": TEXTS, "positive": ["x", "y", "z"], "image": PICTURES})
    space = both()
    assert record_roles(space, table) == {"text": "text", "image": "image"}
    assert np.array_equal(
        encode_table(space, table), encode_records(space, {"text": TEXTS, "image": PICTURES})
    )
    words = Table.from_columns({"text": TEXTS})
    assert np.array_equal(encode_table(space, words), space.encode(TEXTS, "text"))
    with pytest.raises(ArgumentError, match=r"the space reads text; .* has image \(image\).*--column text="):
        record_roles(text_space(TEXTS), Table.from_columns({"image": PICTURES}))


def test_weights_are_checked_and_saved_with_the_space(tmp_path: Path) -> None:
    head = WeightedMean({"image": 0.25, "text": 0.75})
    again = make_head(head.settings())
    assert isinstance(again, WeightedMean)
    assert (again.weights, again.used) == (head.weights, ["image", "text"])
    loaded = Space.load(both(fusion=head).save(tmp_path / "space"))
    columns = {"text": TEXTS, "image": PICTURES}
    assert np.array_equal(encode_records(loaded, columns), encode_records(both(fusion=head), columns))
    for wrong in ({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("inf")}):
        with pytest.raises(ArgumentError, match="weights of modalities"):
            WeightedMean(wrong)
    with pytest.raises(ArtefactError, match="settings of the head WeightedMean are broken"):
        make_head({"class": "WeightedMean", "weights": {"a": -1.0}})


# -- batches of classes ----------------------------------------------------------------------------


def test_groups_hold_one_class_and_every_row_comes() -> None:
    labels = np.array([5, 5, 5, 5, 5, 9, 9, 2, 9, 2, 9, 7])
    groups = class_groups(labels, 3, np.random.default_rng(0))
    assert groups.shape == (2 + 2 + 1 + 1, 3)
    assert all(len(set(labels[group])) == 1 for group in groups)
    assert set(groups.ravel().tolist()) == set(range(12))
    fives = np.sort(groups[labels[groups[:, 0]] == 5].ravel())
    assert len(fives) == 6, "five rows and one of them again"
    assert groups[labels[groups[:, 0]] == 7].tolist() == [[11, 11, 11]], "a class of one row meets itself"
    again = class_groups(labels, 3, np.random.default_rng(0))
    assert (groups == again).all()


def test_without_a_rest_no_row_comes_twice() -> None:
    labels = np.repeat(np.arange(4), 6)
    groups = class_groups(labels, 3, np.random.default_rng(1))
    assert sorted(groups.ravel().tolist()) == list(range(24))


def test_a_group_of_neighbours_holds_m_rows_of_each_in_order() -> None:
    labels = np.array([30, 10, 20, 10, 30, 20, 10, 40])
    near = np.array([[0, 1], [1, 3], [2, 0], [3, 2]])  # positions among 10, 20, 30, 40
    groups = neighbour_groups(labels, near, 3, np.random.default_rng(0))
    assert groups.shape == (4, 6)
    names = np.array([10, 20, 30, 40])
    assert (labels[groups] == np.repeat(names[near], 3, axis=1)).all()
    drawn = {tuple(neighbour_groups(labels, near, 3, np.random.default_rng(s))[0, :3]) for s in range(200)}
    assert len(drawn) == 27, "with replacement: all triples of three rows"


def test_an_exemplar_is_a_row_of_its_class_and_any_of_them() -> None:
    labels = np.array([1, 0, 1, 0, 1])
    drawn = [one_of_each(labels, np.random.default_rng(seed)) for seed in range(60)]
    assert all((labels[rows] == [0, 1]).all() for rows in drawn)
    assert {int(rows[1]) for rows in drawn} == {0, 2, 4}
