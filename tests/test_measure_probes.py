"""Probes, clusters, audits of negatives and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_rel
from sklearn.neighbors import KNeighborsClassifier

from nearfar.errors import ArgumentError
from nearfar.measures import probes as probes_module
from nearfar.measures.clustering import clustering_metrics, kmeans_measure
from nearfar.measures.intervals import (
    bootstrap_interval,
    holm,
    mean_interval,
    paired_interval,
    paired_p,
    wilson_interval,
)
from nearfar.measures.negatives import negative_audit
from nearfar.measures.probes import cross_validated_probe, knn_probe, logistic_probe, ridge_probe


def blobs(n: int, classes: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return np.eye(8)[y] + noise * random.normal(size=(n, 8)), y


@pytest.mark.parametrize(("weights", "theirs"), [("majority", "uniform"), ("distance", "distance")])
def test_knn_agrees_with_sklearn(weights: str, theirs: str) -> None:
    x, y = blobs(300, 2, 1.2)  # two classes and odd k: no tied votes
    train, test = slice(0, 200), slice(200, None)
    reference = KNeighborsClassifier(15, metric="cosine", weights=theirs, algorithm="brute")
    expected = reference.fit(x[train], y[train]).score(x[test], y[test])
    found = knn_probe(x[train], y[train], x[test], y[test], k=15, weights=weights)
    assert found.accuracy == pytest.approx(expected)
    assert 0.5 < found.accuracy < 1
    assert found.low < found.accuracy < found.high
    assert found.n == 100


def test_knn_ties_and_few_keys() -> None:
    keys = np.array([[1, 0.0], [1, 0.1], [1, 0.9], [1, 1]])
    query = np.array([[1, 0.0]])
    labels = ["far", "near", "far", "near"]
    assert knn_probe(keys[:2], ["a", "b"], query, ["a"], k=20).accuracy == 1  # one vote each: the nearer wins
    assert (
        knn_probe(keys, labels, query, ["far"], k=4).accuracy
        == 1 - knn_probe(keys, labels, query, ["near"], k=4).accuracy
    )
    with pytest.raises(ArgumentError, match="k must be 1"):
        knn_probe(keys, labels, query, ["near"], k=0)


def test_macro_accuracy_weighs_classes_not_rows() -> None:
    keys, queries = np.eye(2), np.eye(2)[[0, 0, 0, 0]]
    found = knn_probe(keys, [0, 1], queries, [0, 0, 0, 1], k=1)
    assert (found.accuracy, found.macro_accuracy) == (0.75, 0.5)


def test_logistic_probe_learns_what_neighbours_of_raw_scale_miss() -> None:
    random = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = random.normal(size=(400, 5)) * [1000, 1000, 1, 1, 1]
    x[:, 4] = (2 * y - 1) * 0.02 + 0.005 * random.normal(size=400)  # tiny: lost unless standardised
    found = logistic_probe(x[:300], y[:300], x[300:], y[300:])
    assert found.accuracy > 0.97
    assert knn_probe(x[:300], y[:300], x[300:], y[300:]).accuracy < 0.7
    shuffled = random.permutation(y)
    assert abs(logistic_probe(x[:300], shuffled[:300], x[300:], shuffled[300:]).accuracy - 0.5) < 0.2


def test_the_test_rows_decide_nothing() -> None:
    x, y = blobs(200, 4, 0.6)
    alone = [logistic_probe(x[:150], y[:150], x[i : i + 1], y[i : i + 1]).accuracy for i in range(150, 170)]
    shifted = np.concatenate([x[150:170], 1e4 + x[170:]])
    together = probes_module._logistic(x[:150].astype(np.float32), y[:150], shifted.astype(np.float32), 0)
    assert (together[:20] == y[150:170]).tolist() == [a == 1 for a in alone]


def test_groups_stay_in_one_fold() -> None:
    random = np.random.default_rng(0)
    speakers = np.repeat(np.arange(40), 5)
    y = random.integers(2, size=40)[speakers]  # nothing but the speaker tells the label
    x = random.normal(size=(40, 64))[speakers] + 0.01 * random.normal(size=(200, 64))
    assert cross_validated_probe(x, y, "logistic").accuracy > 0.8
    assert cross_validated_probe(x, y, "logistic", groups=speakers).accuracy < 0.75
    nearest_only = cross_validated_probe(x, y, "knn", groups=speakers)
    assert nearest_only.accuracy < 0.75
    assert nearest_only.n == 200


def test_cross_validation_tests_every_row_and_takes_small_classes() -> None:
    x, y = blobs(60, 3, 0.05)
    rare = y.copy()
    rare[:2] = 7
    found = cross_validated_probe(x, rare, "knn", seed=1)
    assert found.n == 60
    assert found == cross_validated_probe(x, rare, "knn", seed=1)
    assert cross_validated_probe(x, y, "logistic").accuracy == 1
    with pytest.raises(ArgumentError, match="two classes"):
        cross_validated_probe(x, np.zeros(60), "knn")
    with pytest.raises(ArgumentError, match="one label for each of the 60"):
        cross_validated_probe(x, y[:-1], "knn")


def test_clusters() -> None:
    y = np.array([0, 0, 1, 1, 2, 2])
    renamed = clustering_metrics(["b", "b", "c", "c", "a", "a"], y)
    assert (renamed.accuracy, renamed.nmi, renamed.ari, renamed.purity) == pytest.approx((1, 1, 1, 1))
    over = clustering_metrics(np.arange(6), y)  # more clusters than classes
    assert (over.accuracy, over.purity) == (0.5, 1)
    assert over.ari == pytest.approx(0)
    one = clustering_metrics(np.zeros(6), y)
    assert (one.accuracy, one.purity) == pytest.approx((1 / 3, 1 / 3))
    # Greedy matching takes cell (0, 0) first and gets 5 of 9; the best is 4 + 3.
    greedy_trap = clustering_metrics([0] * 5 + [0] * 4 + [1] * 3, [0] * 5 + [1] * 4 + [0] * 3)
    assert greedy_trap.accuracy == pytest.approx(7 / 12)


def test_kmeans_finds_blobs_and_is_seeded() -> None:
    x, y = blobs(120, 4, 0.05)
    assert kmeans_measure(x, y).nmi > 0.6
    noise = np.random.default_rng(0).normal(size=(120, 8))
    assert kmeans_measure(noise, y, seed=2) == kmeans_measure(noise, y, seed=2)
    assert kmeans_measure(noise, y).ari < 0.1
    assert kmeans_measure(np.ones((6, 3)), [0, 0, 1, 1, 2, 2]).purity == pytest.approx(1 / 3)


def test_negative_audit() -> None:
    labels = ["a", "a", "b", "b"]
    found = negative_audit(
        labels, [[1, 2], [2, 3], [3, -1], [0, 1]], similarities=[[1, 0], [0, 1], [1, 99], [0, 1]]
    )
    assert found.n == 7
    assert found.false_negative_rate == pytest.approx(2 / 7)
    assert found.purity == pytest.approx(5 / 7)
    assert found.base_rate == pytest.approx(1 / 3)
    assert found.mean_similarity == pytest.approx(4 / 7)
    assert negative_audit(labels, [[0]], anchors=[3]).false_negative_rate == 0
    with pytest.raises(ArgumentError, match="row 2 has its own anchor"):
        negative_audit(labels, [[1], [1]])
    with pytest.raises(ArgumentError, match="positions in the 4 rows"):
        negative_audit(labels, [[4]])


def test_drawing_evenly_gives_the_base_rate() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(5, size=200)
    drawn = random.integers(199, size=(200, 300))
    drawn += drawn >= np.arange(200)[:, None]
    found = negative_audit(labels, drawn)
    assert found.false_negative_rate == pytest.approx(found.base_rate, abs=0.01)


def test_intervals_over_seeds() -> None:
    a, b = np.array([3.0, 4, 6, 7]), np.array([2.5, 3.0, 5.5, 5])
    mean, low, high = mean_interval([1, 2, 3])
    assert (mean, high - mean) == pytest.approx((2, 4.302653 / 3**0.5), rel=1e-5)
    assert low == pytest.approx(2 - (high - 2))
    theirs = ttest_rel(a, b).confidence_interval(0.95)
    ours = paired_interval(a, b)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.high - ours.low < mean_interval(a).high - mean_interval(a).low
    assert np.isnan(mean_interval([5.0]).low)
    with pytest.raises(ArgumentError, match="row 2"):
        mean_interval([1, np.inf])
    with pytest.raises(ArgumentError, match="each seed"):
        paired_interval([1, 2], [1])


def test_intervals_over_rows() -> None:
    values = np.random.default_rng(0).normal(size=200)
    ours = bootstrap_interval(values, draws=2000)
    theirs = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert ours == bootstrap_interval(values, draws=2000)
    pairs = np.stack([values, values + 0.1], axis=1)
    assert bootstrap_interval(pairs, lambda p: float(np.mean(p[:, 1] - p[:, 0]))).high == pytest.approx(0.1)
    share, low, high = wilson_interval(0, 10)
    assert (share, low, high) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10).high == pytest.approx(1)


def test_a_ridge_probe_explains_what_is_linear_and_nothing_of_noise() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 4)) * [1, 10, 0.1, 1] + 5
    linear, noise = x @ [1.0, 0.2, -8.0, 0.0], random.normal(size=300)
    half = 0.5**0.5 * (linear - linear.mean()) / linear.std() + 0.5**0.5 * noise
    y = np.stack([linear, noise, half], axis=1)
    found = ridge_probe(x[:200], y[:200], x[200:], y[200:])
    assert found.shape == (3,)
    assert found[0] > 0.999
    assert found[1] < 0.05
    assert 0.35 < found[2] < 0.65


def test_a_ridge_probe_is_judged_on_the_test_rows_but_learns_nothing_from_them() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(60, 3)), random.normal(size=(60, 1))
    y[:, 0] += x[:, 0]
    train, test = slice(0, 40), slice(40, 60)
    found = ridge_probe(x[train], y[train], x[test], y[test])
    # Each penalty by hand, on standardised features; leave-one-out on the train rows chooses.
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    a, b = (x[train] - mean) / std, (x[test] - mean) / std
    target = y[train] - y[train].mean()
    errors, scores = [], []
    for penalty in probes_module.PENALTIES:
        hat = a @ np.linalg.solve(a.T @ a + penalty * np.eye(3), a.T)
        left_out = (target - hat @ target) / (1 - np.diag(hat) - 1 / 40)[:, None]
        errors.append(np.square(left_out).sum())
        weights = np.linalg.solve(a.T @ a + penalty * np.eye(3), a.T @ target)
        residual = y[test] - y[train].mean() - b @ weights
        scores.append(1 - np.square(residual).sum() / np.square(y[test] - y[test].mean()).sum())
    assert found[0] == pytest.approx(scores[int(np.argmin(errors))], abs=1e-4)
    half = ridge_probe(x[train], y[train], x[test][:10], y[test][:10])
    assert half[0] != found[0]


def test_a_ridge_probe_says_what_is_wrong() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20.0)[:, None]
    with pytest.raises(ArgumentError, match="quantity 1 is the same in all test rows"):
        ridge_probe(x, y, x[:3], np.ones((3, 1)))
    with pytest.raises(ArgumentError, match="one row of quantities for each embedding"):
        ridge_probe(x, y[:19], x, y)
    with pytest.raises(ArgumentError, match="row 2 holds NaN"):
        ridge_probe(x, np.where(np.arange(20)[:, None] == 1, np.nan, y), x, y)


def test_the_paired_test_is_that_of_scipy_and_agrees_with_the_interval() -> None:
    drawn = np.random.default_rng(0).normal(size=(50, 2, 4))
    for a, b in drawn:
        p, gap = paired_p(a, b), paired_interval(a, b)
        assert p == pytest.approx(ttest_rel(a, b).pvalue)
        assert (p < 0.05) == (gap.low > 0 or gap.high < 0)
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == 1
    assert paired_p([1.0, 2.0], [0.0, 1.0]) == 0
    with pytest.raises(ArgumentError, match="at least two"):
        paired_p([1.0], [0.0])


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [
        True,
        False,
        False,
        True,
    ]  # limits .0125, .0167, .025, .05 in order
    assert holm([0.02, 0.02]) == [True, True]
    assert holm([0.03, 0.9]) == [False, False]
    assert holm([]) == []
