"""Figures of out-of-distribution detection, against scikit-learn and by what must be true."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from nearfar.errors import ArgumentError
from nearfar.measures.ood import auroc, fpr_at_tpr, keeping_threshold, mean_over_sets, ood_metrics


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_all_figures_are_those_of_scikit_learn_with_and_without_ties(levels: int, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    inside = np.round(drawn.normal(0.7, 1, 211) * levels / 4)
    outside = np.round(drawn.normal(0, 1.4, 97) * levels / 4)
    truth = np.r_[np.ones(211), np.zeros(97)]
    scores = np.r_[inside, outside]
    found = ood_metrics(inside, outside)
    assert found.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert found.aupr_in == pytest.approx(average_precision_score(truth, scores))
    assert found.aupr_out == pytest.approx(average_precision_score(1 - truth, -scores))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false[np.argmax(true >= 0.95)])
    assert (found.n_in, found.n_out) == (211, 97)


def test_scores_that_are_all_equal_tell_nothing() -> None:
    found = ood_metrics([2.0] * 6, [2.0] * 3)
    assert (found.auroc, found.fpr95) == (0.5, 1.0)
    assert found.aupr_in == pytest.approx(6 / 9)
    assert found.aupr_out == pytest.approx(3 / 9)


def test_only_the_order_counts_and_turning_it_around_turns_the_figure_around() -> None:
    drawn = np.random.default_rng(0)
    inside, outside = drawn.normal(1, 1, 50), drawn.normal(0, 1, 40)
    assert ood_metrics(np.exp(inside), np.exp(outside)) == ood_metrics(inside, outside)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))
    assert fpr_at_tpr([1, 2, 3], [0, 0.5]) == 0


def test_the_threshold_keeps_the_share_and_no_row_more() -> None:
    scores = np.arange(20.0)
    assert keeping_threshold(scores) == 1.0  # 19 of 20, though 0.95 * 20 is above 19 in floating point
    assert keeping_threshold(np.arange(21.0)) == 1.0
    assert keeping_threshold(scores, 1.0) == 0.0
    assert fpr_at_tpr(scores, [0.5, 1.0, 1.5], 0.95) == pytest.approx(2 / 3)


def test_sets_count_alike_in_the_mean() -> None:
    one, two = ood_metrics([1, 2], [0] * 9), ood_metrics([0, 1], [2])
    assert mean_over_sets([one, two]) == (0.5, 0.5)
    with pytest.raises(ArgumentError, match="no results"):
        mean_over_sets([])


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0, np.nan], [0.0]), ([1.0], [np.inf])])
def test_wrong_scores_are_refused(inside: list[float], outside: list[float]) -> None:
    with pytest.raises(ArgumentError, match=r"inside|outside"):
        ood_metrics(inside, outside)
