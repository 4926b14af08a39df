"""Retrieval figures against ir_measures, ties, exclusion, errors; STS."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import AP, RR, R, Success, nDCG
from scipy.stats import spearmanr

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES
from nearfar.measures import rows as rows_module
from nearfar.measures.nearness import pair_nearness
from nearfar.measures.retrieval import ranking_metrics, retrieval_metrics
from nearfar.measures.sts import sts

NAMES = {
    "mrr@10": RR @ 10,
    "map": AP,
    "ndcg@10": nDCG @ 10,
    "recall@1": R @ 1,
    "recall@5": R @ 5,
    "recall@10": R @ 10,
    "hit@1": Success @ 1,
    "hit@5": Success @ 5,
    "hit@10": Success @ 10,
}


def problem(seed: int, most: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(seed)
    queries, keys = random.normal(size=(25, 6)), random.normal(size=(60, 6))
    positives = [random.choice(60, random.integers(1, most + 1), replace=False) for _ in range(25)]
    grades = [random.integers(1, 4, len(row)) for row in positives]
    return queries, keys, positives, grades


def by_ir_measures(
    scores: np.ndarray, positives: list[np.ndarray], grades: list[np.ndarray]
) -> dict[str, float]:
    qrels = [
        ir_measures.Qrel(str(q), str(key), int(grade))
        for q, row in enumerate(positives)
        for key, grade in zip(row, grades[q], strict=True)
    ]
    run = [
        ir_measures.ScoredDoc(str(q), str(key), float(score))
        for q, row in enumerate(scores)
        for key, score in enumerate(row)
        if np.isfinite(score)
    ]
    found = ir_measures.calc_aggregate(list(NAMES.values()), qrels, run)
    return {name: found[measure] for name, measure in NAMES.items()}


def cosines(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, keys)]
    return unit[0] @ unit[1].T


@pytest.mark.parametrize(("seed", "most"), [(0, 1), (1, 4), (2, 30)])
def test_agrees_with_ir_measures(seed: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, positives, grades = problem(seed, most)
    expected = by_ir_measures(cosines(queries, keys), positives, grades)
    found = retrieval_metrics(queries, keys, positives, grades=grades)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    monkeypatch.setattr(rows_module, "BLOCK_CELLS", 60 * 7)
    assert retrieval_metrics(queries, keys, positives, grades=grades) == found


def test_excluded_keys_are_not_ranked() -> None:
    queries, keys, positives, grades = problem(3, 3)
    scores = cosines(queries, keys)
    exclude = [
        [key for key in np.argsort(-row)[:4] if key not in own]
        for row, own in zip(scores, positives, strict=True)
    ]
    for row, keys_out in zip(scores, exclude, strict=True):
        row[keys_out] = -np.inf
    found = retrieval_metrics(queries, keys, positives, exclude=exclude, grades=grades)
    for name, value in by_ir_measures(scores, positives, grades).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_ranks_of_the_diagonal() -> None:
    queries, keys = np.random.default_rng(0).normal(size=(2, 30, 5))
    scores = cosines(queries, keys)
    ranks = [1 + np.sum(row > row[i]) for i, row in enumerate(scores)]
    found = retrieval_metrics(queries, keys, ks=(3,))
    assert found["mean_rank"] == pytest.approx(np.mean(ranks))
    assert found["median_rank"] == np.median(ranks)
    assert found["recall@3"] == found["hit@3"] == np.mean(np.array(ranks) <= 3)
    assert found["mrr@10"] == pytest.approx(np.mean([1 / r if r <= 10 else 0 for r in ranks]))


def test_ties_never_favour_the_positive() -> None:
    equal = np.eye(4)[[0] * 20]
    found = retrieval_metrics(equal, equal)
    assert found["mean_rank"] == 20
    assert found["mrr@10"] == found["hit@10"] == found["ndcg@10"] == 0
    three = retrieval_metrics(equal[:1], equal[:5], [[0, 1, 2]], ks=(2, 3, 5))
    assert (three["recall@2"], three["recall@3"], three["recall@5"]) == (0, pytest.approx(1 / 3), 1)
    assert three["map"] == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3)


def test_gains_follow_their_positive_in_any_order() -> None:
    keys = np.array([[1, 0.0], [1, 0.5], [1, 1], [0, 1]])
    perfect = retrieval_metrics(keys[:1], keys, [[2, 0, 1]], grades=[[1, 3, 2]])
    assert perfect["ndcg@10"] == pytest.approx(1)
    assert retrieval_metrics(keys[:1], keys, [[2, 0, 1]], grades=[[3, 1, 2]])["ndcg@10"] < 0.9


def test_rankings_without_vectors_give_the_same_figures() -> None:
    queries, keys, positives, grades = problem(4, 5)
    order = np.argsort(-cosines(queries, keys), axis=1)
    found = ranking_metrics(
        [row.tolist() for row in order], [row.tolist() for row in positives], grades=grades
    )
    assert found == pytest.approx(retrieval_metrics(queries, keys, positives, grades=grades))
    assert ranking_metrics(order) == ranking_metrics(order.tolist(), [[i] for i in range(25)])
    cut = ranking_metrics([["b", "a"], ["c"]], [["a", "z"], ["x"]], ks=(2,))
    assert cut["recall@2"] == pytest.approx(0.25)
    assert cut["mrr@10"] == pytest.approx(0.25)
    assert cut["map"] == pytest.approx(0.125)
    assert "mean_rank" not in cut


def test_a_rotation_changes_no_figure() -> None:
    queries, keys, positives, _ = problem(5, 3)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert retrieval_metrics(queries @ turn, 5 * keys @ turn, positives) == retrieval_metrics(
        queries, keys, positives
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"positives": [[0], []]}, "row 2 has none"),
        ({"positives": [[0], [4]]}, "row 2 names a key outside"),
        ({"positives": [[0], [1, 1]]}, "row 2 names a key twice"),
        ({"positives": [[0]]}, "2 queries"),
        ({"positives": [[0], [1]], "exclude": [[], [1]]}, "row 2 excludes one of its positives"),
        ({"positives": [[0], [1]], "grades": [[1], [0]]}, "row 2 needs 1 finite gains above 0"),
        ({"positives": None}, "without `positives`"),
        ({"positives": [[0], [1]], "ks": ()}, "ks must"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        retrieval_metrics(np.eye(4)[:2], np.eye(4)[:3], **arguments)


def test_wrong_rankings_are_named() -> None:
    with pytest.raises(ArgumentError, match="row 1 ranks an id twice"):
        ranking_metrics([["a", "a"]], [["a"]])
    with pytest.raises(ArgumentError, match="row 2 has none"):
        ranking_metrics([["a"], ["b"]], [["a"], []])


def test_sts_joins_subsets_before_it_correlates() -> None:
    easy, hard = np.array([0.8, 0.85, 0.9]), np.array([0.1, 0.2, 0.3])
    gold = [np.array([1.0, 2, 3]), np.array([4.0, 5, 6])]  # each subset in perfect order, together not
    joined = sts([easy, hard], gold)
    assert joined == pytest.approx(spearmanr(np.r_[easy, hard], np.r_[gold[0], gold[1]]).statistic)
    assert joined < 0
    assert [sts(easy, gold[0]), sts(hard, gold[1])] == pytest.approx([1, 1])


def test_sts_is_a_rank_correlation() -> None:
    gold = np.arange(10.0)
    assert sts(np.exp(5 * gold), gold) == pytest.approx(1)  # Pearson would be well below
    assert sts(-gold, gold) == pytest.approx(-1)
    assert sts(np.ones(10), gold) == 0
    with pytest.raises(ArgumentError, match="gold scores are equal"):
        sts(gold, np.ones(10))
    with pytest.raises(ArgumentError, match="row 3 is not a finite"):
        sts([0.1, 0.2, np.nan], [1, 2, 3])
    with pytest.raises(ArgumentError, match="match row by row"):
        sts([0.1, 0.2, 0.3], [1, 2])


@pytest.mark.parametrize("geometry", list(SCORES))
def test_keys_are_ranked_and_pairs_compared_by_what_the_space_compares_with(geometry: str) -> None:
    random = np.random.default_rng(0)
    queries, keys = (random.normal(size=(n, 5)).astype(np.float32) for n in (6, 40))
    scores = SCORES[geometry](torch.from_numpy(queries).double(), torch.from_numpy(keys).double()).numpy()
    right = random.integers(0, 40, 6)
    ranks = 1 + (scores > scores[np.arange(6), right][:, None]).sum(1)
    found = retrieval_metrics(queries, keys, right[:, None], geometry=geometry)
    assert found["mean_rank"] == pytest.approx(ranks.mean())
    pairs = pair_nearness(queries, keys[:6], geometry)
    np.testing.assert_array_equal(np.argsort(pairs), np.argsort(np.diagonal(scores[:, :6])))
