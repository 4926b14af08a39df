"""Linkage, clusters and string baselines: against scikit-learn, SciPy and plain definitions."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES
from nearfar.measures.linkage import linkage_metrics
from nearfar.search.clustering import cluster_threshold, merges_of, single_linkage
from nearfar.search.linkage import Links, link_by_scores, link_nearest, link_threshold
from nearfar.search.strings import levenshtein, ngram_jaccard


def cloud(
    n: int = 60, classes: int = 12, spread: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    return (random.normal(size=(classes, 8))[labels] + spread * random.normal(size=(n, 8))), labels


# -- linkage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["cosine", "dot", "euclidean"])
def test_the_nearest_target_is_found_under_each_geometry(geometry: str) -> None:
    q, t = cloud(20, seed=1)[0], cloud(30, seed=2)[0]
    links = link_nearest(q, t, geometry)
    if geometry == "euclidean":
        scores = -((q[:, None] - t[None]) ** 2).sum(-1)
    else:
        one, two = (q, t) if geometry == "dot" else (x / np.linalg.norm(x, axis=1)[:, None] for x in (q, t))
        scores = one @ two.T
    assert (links.nearest == scores.argmax(1)).all()
    assert np.allclose(links.scores, scores.max(1), rtol=1e-5)
    same = link_by_scores(scores)
    assert (same.nearest == links.nearest).all()


def test_below_the_threshold_there_is_no_match_and_at_it_there_is() -> None:
    links = Links(np.array([4, 5, 6]), np.array([0.9, 0.5, 0.1]))
    assert links.at(0.5).tolist() == [4, 5, -1]
    assert links.at(-np.inf).tolist() == [4, 5, 6]
    assert links.at(np.nextafter(0.9, 1)).tolist() == [-1, -1, -1]


def test_the_tuned_threshold_is_the_best_of_all_for_f1() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        n = int(random.integers(2, 12))
        links = Links(np.arange(n), np.round(random.normal(size=n), 1))
        right = random.random(n) < 0.5
        matches = [{i} if right[i] else ({99} if random.random() < 0.5 else set()) for i in range(n)]
        if not (pairs := sum(map(len, matches))):
            continue
        score = lambda at, links=links, matches=matches: linkage_metrics(links.at(at), matches).f1  # noqa: E731
        every = [score(at) for at in [*links.scores, np.inf]]
        assert score(link_threshold(links, right, pairs)) == pytest.approx(max(every))


def test_a_threshold_lies_between_scores_and_links_no_more_than_it_must() -> None:
    links = Links(np.arange(4), np.array([0.2, 0.9, 0.5, 0.8]))
    assert link_threshold(links, [False, True, False, True], 2) == pytest.approx(0.65)
    assert link_threshold(links, [True, True, True, True], 4) == pytest.approx(0.2)
    with pytest.raises(ArgumentError, match="at least one true pair"):
        link_threshold(links, [False] * 4, 0)
    with pytest.raises(ArgumentError, match="each of the 4 queries"):
        link_threshold(links, [True], 1)


def test_figures_of_links_count_queries_without_a_match() -> None:
    """Right; wrong; missed; rightly left alone; linked though it has none; one of two matches."""
    got = linkage_metrics([0, 1, -1, -1, 4, 7], [{0}, {2}, {3}, set(), set(), {7, 8}])
    assert (got.precision, got.recall, got.f1) == (2 / 4, 2 / 5, pytest.approx(4 / 9))
    assert (got.accuracy, got.n) == (3 / 6, 6)
    nothing = linkage_metrics([-1], [set()])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.accuracy) == (1, 1, 1, 1)
    assert linkage_metrics([-1], [{3}]).f1 == 0
    with pytest.raises(ArgumentError, match="each of the 2 queries"):
        linkage_metrics([1], [{1}, set()])


# -- clustering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_clusters_are_those_of_dbscan_and_of_scipys_single_linkage(spread: float) -> None:
    z, _ = cloud(spread=spread)
    merges = single_linkage(z)
    tree = linkage(z, "single", "cosine")
    assert np.allclose(1 - merges.scores, tree[:, 2], atol=1e-5)
    for eps in (0.02, 0.07, 0.2, 0.6):
        found = merges.clusters(1 - eps)
        other = DBSCAN(eps=eps, min_samples=1, metric="cosine").fit_predict(z)
        assert adjusted_rand_score(found, other) == 1
        assert adjusted_rand_score(found, fcluster(tree, eps, "distance")) == 1
        first = [int(found.tolist().index(name)) for name in range(found.max() + 1)]
        assert first == sorted(first), "numbered in the order of first rows"


def test_other_geometries_join_what_their_score_joins() -> None:
    z, _ = cloud()
    far = single_linkage(z, "euclidean")
    assert np.allclose(np.sqrt(-far.scores), linkage(z, "single")[:, 2], atol=1e-4)
    alike = z @ z.T
    assert np.allclose(merges_of(lambda row: alike[row], len(z)).scores, single_linkage(z, "dot").scores)


def test_clusters_in_hyperbolic_space_go_by_distance() -> None:
    z, _ = cloud(20)
    scores = SCORES["lorentz"](torch.from_numpy(z), torch.from_numpy(z)).numpy()
    assert np.allclose(
        single_linkage(z, "lorentz").scores, merges_of(lambda row: scores[row], 20).scores, atol=1e-3
    )
    with pytest.raises(ArgumentError, match=r"geometry one of cosine.*got shape \(0, 3\) and 'flat'"):
        single_linkage(np.empty((0, 3)), "flat")


def test_a_chain_is_one_cluster_and_what_is_near_nobody_is_alone() -> None:
    angles = np.radians([0, 10, 20, 30, 90])
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    merges = single_linkage(z)
    assert merges.clusters(float(np.cos(np.radians(10.5)))).tolist() == [0, 0, 0, 0, 1]
    assert merges.clusters(1.0001).tolist() == [0, 1, 2, 3, 4]
    assert merges.clusters(-1).tolist() == [0] * 5
    assert single_linkage(z[:1]).clusters(0.5).tolist() == [0]


@pytest.mark.parametrize("seed", range(6))
def test_the_tuned_threshold_is_the_best_of_all_for_ari(seed: int) -> None:
    """Rounded scores tie, and some labels have one row only."""
    z, labels = cloud(30, classes=14, spread=0.6, seed=seed)
    unit = z / np.linalg.norm(z, axis=1)[:, None]
    alike = np.round(unit @ unit.T, 1)
    merges = merges_of(lambda row: alike[row], len(z))
    every = [adjusted_rand_score(labels, merges.clusters(at)) for at in [*merges.scores, 2.0]]
    got = adjusted_rand_score(labels, merges.clusters(cluster_threshold(merges, labels)))
    assert got == pytest.approx(max(every))


def test_rows_that_all_differ_are_left_apart_and_rows_of_one_label_joined() -> None:
    z, _ = cloud(10)
    merges = single_linkage(z)
    assert len(set(merges.clusters(cluster_threshold(merges, np.arange(10))).tolist())) == 10
    assert len(set(merges.clusters(cluster_threshold(merges, np.zeros(10))).tolist())) == 1
    with pytest.raises(ArgumentError, match="one for each of the 10 rows"):
        cluster_threshold(merges, [1, 2])


# -- strings ---------------------------------------------------------------------------------------

WORDS = ["", "a", "kitten", "sitting", "saturday", "sunday", "東京都", "東京", "aaaa", "sitting "]


@functools.cache
def distance(one: str, two: str) -> int:
    if not one or not two:
        return len(one) + len(two)
    return min(
        distance(one[1:], two) + 1,
        distance(one, two[1:]) + 1,
        distance(one[1:], two[1:]) + (one[0] != two[0]),
    )


def test_levenshtein_is_the_edit_distance_of_its_definition() -> None:
    got = levenshtein(WORDS, WORDS[::-1])
    for i, one in enumerate(WORDS):
        for j, two in enumerate(WORDS[::-1]):
            assert got[i, j] == pytest.approx(1 - distance(one, two) / max(len(one), len(two), 1)), (one, two)
    assert levenshtein(["kitten"], ["sitting"])[0, 0] == pytest.approx(1 - 3 / 7)


def test_jaccard_is_that_of_the_sets_of_grams() -> None:
    def grams(text: str) -> set[str]:
        padded = f"  {text}  "
        return {padded[i : i + 3] for i in range(len(padded) - 2)}

    got = ngram_jaccard(WORDS, WORDS[:6])
    for i, one in enumerate(WORDS):
        for j, two in enumerate(WORDS[:6]):
            expected = len(grams(one) & grams(two)) / len(grams(one) | grams(two))
            assert got[i, j] == pytest.approx(expected), (one, two)
    assert (np.diag(got[:6]) == 1).all()
