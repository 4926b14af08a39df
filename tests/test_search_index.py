"""The index is exact, ordered, stable, and comes back from disk as it was."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.geometry import SCORES
from nearfar.search.index import Index

GEOMETRIES = tuple(SCORES)


def rows(n, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 25),
    st.integers(1, 6),
    st.integers(1, 70),
    st.sampled_from(GEOMETRIES),
    st.integers(0, 99),
)
def test_search_equals_brute_force(n, q, d, k, geometry, seed):
    keys, queries = rows(n, d, seed), rows(q, d, seed + 1000)
    scores, ids = Index(keys, geometry).search(queries, k)
    exact = SCORES[geometry](torch.from_numpy(queries).double(), torch.from_numpy(keys).double()).numpy()
    assert scores.shape == ids.shape == (q, min(k, n))
    # Near parallel rows the root of 1 - cos^2 makes much of the last digit of float32.
    close = {"rtol": 1e-5, "atol": 1e-3 if geometry == "gram" else 1e-6}
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :k], **close)
    np.testing.assert_allclose(np.take_along_axis(exact, ids, axis=1), scores, **close)
    assert all(len(set(found)) == len(found) for found in ids.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equal_rows_come_in_the_order_of_rows(geometry):
    keys = rows(400)
    copies = np.arange(5, 400, 7)  # more than k and what is fetched beside it
    keys[copies] = keys[5]
    scores, ids = Index(keys, geometry).search(np.repeat(keys[5:6] * 3, 30, axis=0), 10)
    first = ids[:, np.isin(ids[0], copies)]
    assert first.shape[1] >= (10 if geometry == "cosine" else 1)
    assert (first == copies[: first.shape[1]]).all()
    assert all(len(set(score[np.isin(found, copies)])) == 1 for score, found in zip(scores, ids, strict=True))


def test_all_rows_equal_gives_the_first_k():
    assert Index(np.ones((500, 4))).search(np.ones((2, 4)), 3)[1].tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_an_answer_does_not_depend_on_what_is_asked_beside_it(geometry):
    index, queries = Index(rows(300, 33), geometry), rows(64, 33, 1)
    together = index.search(queries, 7)
    for i in (0, 31, 63):
        alone = index.search(queries[i : i + 1], 7)
        np.testing.assert_array_equal(alone[0][0], together[0][i])
        np.testing.assert_array_equal(alone[1][0], together[1][i])


def test_far_from_the_origin_near_rows_are_still_told_apart():
    keys = rows(200) + 1000  # float32 |a|^2 + |b|^2 - 2ab would have errors as large as the distances
    scores, ids = Index(keys, "euclidean").search(np.repeat(keys, 1, axis=0), 1)
    assert ids[:, 0].tolist() == list(range(200))
    assert (scores == 0).all()


def test_no_query_gives_no_answer():
    scores, ids = Index(rows(5)).search(np.empty((0, 8)), 3)
    assert scores.shape == ids.shape == (0, 3)


@pytest.mark.parametrize(
    ("geometry", "approximate"),
    [(name, False) for name in GEOMETRIES]
    + [(name, True) for name in GEOMETRIES if name not in ("lorentz", "gram")],
)
def test_saved_and_loaded_it_answers_the_same(tmp_path, geometry, approximate):
    index = Index(rows(50), geometry, approximate=approximate)
    loaded = Index.load(index.save(tmp_path / "index"))
    assert (loaded.geometry, loaded.approximate, len(loaded)) == (geometry, approximate, 50)
    assert isinstance(loaded.vectors, np.memmap)
    for was, now in zip(index.search(rows(9, seed=2), 4), loaded.search(rows(9, seed=2), 4), strict=True):
        np.testing.assert_array_equal(was, now)


def test_cosine_rows_are_kept_at_unit_length(tmp_path):
    Index(rows(20) * 9).save(tmp_path / "index")
    kept = np.load(tmp_path / "index" / "vectors.npy", allow_pickle=False)
    np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, rtol=1e-6)


def test_an_existing_folder_is_not_overwritten(tmp_path):
    Index(rows(5)).save(tmp_path / "index")
    with pytest.raises(ArtefactError, match="exists already"):
        Index(rows(6)).save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 5


def damage(folder, how):
    vectors, told = folder / "vectors.npy", folder / "index.json"
    if how == "vectors missing":
        vectors.unlink()
    elif how == "vectors changed":
        content = bytearray(vectors.read_bytes())
        content[-1] ^= 1
        vectors.write_bytes(content)
    elif how == "vectors cut":
        vectors.write_bytes(vectors.read_bytes()[:-8])
    elif how == "description missing":
        told.unlink()
    elif how == "description is a list":
        told.write_text("[]")
    elif how == "newer format":
        told.write_text(json.dumps(json.loads(told.read_text()) | {"format": 99}))
    elif how == "unknown geometry":
        told.write_text(json.dumps(json.loads(told.read_text()) | {"geometry": "hyperbolic"}))


@pytest.mark.parametrize(
    "how",
    [
        "vectors missing",
        "vectors changed",
        "vectors cut",
        "description missing",
        "description is a list",
        "newer format",
        "unknown geometry",
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, how):
    folder = Index(rows(5)).save(tmp_path / "index")
    damage(folder, how)
    with pytest.raises(ArtefactError):
        Index.load(folder)


def test_objects_in_the_vectors_file_are_never_unpickled(tmp_path):
    from nearfar.files import fingerprint_of_file

    folder = Index(rows(5)).save(tmp_path / "index")
    np.save(folder / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    told = json.loads((folder / "index.json").read_text())
    told["fingerprint"] = fingerprint_of_file(folder / "vectors.npy")
    (folder / "index.json").write_text(json.dumps(told))
    with pytest.raises(ArtefactError, match="cannot be read"):
        Index.load(folder)


def test_recall_is_what_a_comparison_with_the_exact_index_gives():
    keys = rows(3000, 24)
    exact, approximate = Index(keys), Index(keys, approximate=True)
    assert exact.recall == 1.0
    assert 0.8 < approximate.recall <= 1.0
    true, found = exact.search(keys[:200], 11)[1], approximate.search(keys[:200], 11)[1]
    shared = np.mean([len(set(t) & set(f)) / 11 for t, f in zip(true.tolist(), found.tolist(), strict=True)])
    assert abs(shared - approximate.recall) < 0.05
    assert "recall@10" in repr(approximate)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Index(np.ones(3)), "matrix"),
        (lambda: Index(np.ones((0, 3))), "matrix"),
        (lambda: Index(np.ones((2, 3)), "manhattan"), "cosine, dot, euclidean"),
        (lambda: Index(np.array([[1.0, 1.0], [np.nan, 1.0]]), "dot"), "row 2"),
        (lambda: Index(np.array([[1.0, 1.0], [0.0, 0.0]])), "row 2 is all zeros"),
        (lambda: Index(rows(4)).search(rows(1), 0), "k must be"),
        (lambda: Index(rows(4)).search(rows(1, 5), 1), "5 wide"),
    ],
)
def test_what_is_wrong_is_said(make, says):
    with pytest.raises(ArgumentError, match=says):
        make()
