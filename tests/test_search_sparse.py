"""Inverted lists answer as the dense index of the same codes does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nearfar.data.kinds import Vector
from nearfar.data.table import Table
from nearfar.encoders.given import GivenVectors
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.heads.sparse import TopKSparseCoder
from nearfar.search.cached import cached_index
from nearfar.search.index import Index
from nearfar.search.sparse import SparseIndex
from nearfar.space import Space
from nearfar.verbs.search import search_table


def codes(n: int, h: int = 40, k: int = 3, seed: int = 0, signed: bool = False) -> np.ndarray:
    """Rows with k entries, few different values, so that many scores tie."""
    drawn = np.random.default_rng(seed)
    made = np.zeros((n, h), dtype=np.float32)
    for row in made:
        values = drawn.choice([0.5, 1.0, 1.5], k)
        row[drawn.choice(h, k, replace=False)] = values * drawn.choice([-1, 1], k) if signed else values
    return made


@pytest.mark.parametrize("geometry", ["cosine", "dot"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_answers_are_those_of_the_dense_index(geometry: str, signed: bool, k: int) -> None:
    rows, queries = codes(60, signed=signed), codes(25, seed=1, signed=signed)
    rows[7] = rows[30]
    dense, lists = Index(rows, geometry), SparseIndex(rows, geometry)
    for one, other in zip(dense.search(queries, k), lists.search(queries, k), strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_without_ties_give_the_scores_of_the_dense_product() -> None:
    drawn = np.random.default_rng(3)
    rows, queries = (codes(n, 200, 8, n) * drawn.random((n, 200), dtype=np.float32) for n in (300, 20))
    scores, ids = SparseIndex(rows, "dot").search(queries, 300)
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T
    np.testing.assert_array_equal(ids, np.argsort(-exact.astype(np.float32), axis=1, kind="stable"))
    np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), rtol=1e-6)


def test_rows_that_share_nothing_come_last_at_zero_in_their_order() -> None:
    rows = np.eye(4, dtype=np.float32)
    scores, ids = SparseIndex(rows).search(rows[2:3], 4)
    assert scores.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert ids.tolist() == [[2, 0, 1, 3]]
    scores, ids = SparseIndex(rows, "dot").search(-rows[:1], 4)
    assert scores.tolist() == [[0.0, 0.0, 0.0, -1.0]]
    assert ids.tolist() == [[1, 2, 3, 0]]


def test_memory_follows_the_entries_and_not_the_width() -> None:
    narrow, wide = (SparseIndex(codes(500, h)) for h in (40, 4000))
    assert narrow.lists.nnz == wide.lists.nnz == 1500
    assert wide.bytes - narrow.bytes == (4000 - 40) * 4
    assert len(wide) == 500


def test_what_was_saved_is_read_again_bit_for_bit(tmp_path: Path) -> None:
    index = SparseIndex(codes(60))
    again = SparseIndex.load(index.save(tmp_path / "index"))
    assert {place.suffix for place in (tmp_path / "index").iterdir()} == {".npy", ".json"}
    assert (again.geometry, len(again)) == ("cosine", 60)
    for one, other in zip(
        index.search(codes(9, seed=2), 60), again.search(codes(9, seed=2), 60), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    place = SparseIndex(codes(60)).save(tmp_path / "index")
    whole = (place / f"{name}.npy").read_bytes()
    (place / f"{name}.npy").write_bytes(whole[:-1] + b"x")
    with pytest.raises(ArtefactError, match=f"{name}.npy was changed"):
        SparseIndex.load(place)
    (place / f"{name}.npy").unlink()
    with pytest.raises(ArtefactError, match="build it again"):
        SparseIndex.load(place)


def test_neither_index_takes_the_other_for_its_own(tmp_path: Path) -> None:
    Index(codes(9)).save(tmp_path / "dense")
    SparseIndex(codes(9)).save(tmp_path / "sparse")
    with pytest.raises(ArtefactError):
        SparseIndex.load(tmp_path / "dense")
    with pytest.raises(ArtefactError):
        Index.load(tmp_path / "sparse")


def test_lists_that_point_outside_are_refused(tmp_path: Path) -> None:
    place = SparseIndex(codes(9)).save(tmp_path / "index")
    told = json.loads((place / "index.json").read_text())
    told["shape"] = [5, 40]
    (place / "index.json").write_text(json.dumps(told))
    with pytest.raises(ArtefactError, match="cannot be read as a sparse index"):
        SparseIndex.load(place)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ArgumentError, match="row 2 is all zeros"):
        SparseIndex(np.array([[1, 0], [0, 0]], dtype=np.float32))
    with pytest.raises(ArgumentError, match="cosine or dot"):
        SparseIndex(codes(4), "euclidean")
    with pytest.raises(ArgumentError, match="k must be at least 1"):
        SparseIndex(codes(4)).search(codes(1), 0)
    with pytest.raises(ArgumentError, match="queries are 39 wide, the index holds 40"):
        SparseIndex(codes(4)).search(codes(1, 39), 1)


def test_a_space_with_a_sparse_head_is_searched_by_lists_and_one_without_is_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    table = Table.from_columns({"vector": vectors}, {"vector": Vector})
    coded = Space({"vector": GivenVectors(6)}, {"vector": TopKSparseCoder(6, 48, k=3)})
    plain = Space({"vector": GivenVectors(6)})
    assert isinstance(cached_index(plain, table, "vector", tmp_path / "plain"), Index)
    assert isinstance(cached_index(coded, table, "vector", None), SparseIndex)
    built = cached_index(coded, table, "vector", tmp_path / "coded")
    kept = cached_index(coded, table, "vector", tmp_path / "coded")
    assert isinstance(built, SparseIndex)
    assert isinstance(kept, SparseIndex)
    assert kept.made_from["space"] == coded.fingerprint
    hits = search_table(coded, table, [vectors[11]], k=4, folder=tmp_path / "coded")[0]
    z = coded.encode(list(vectors))
    expected = np.argsort(-(z[11].astype(np.float64) @ z.T.astype(np.float64)), kind="stable")[:4]
    assert [hit.row - 1 for hit in hits] == expected.tolist()
    assert hits[0].score == pytest.approx(1)
