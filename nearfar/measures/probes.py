"""Probes: how well frozen embeddings say a label or a quantity, by neighbours or by one linear layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.hubness import nearest
from nearfar.measures.intervals import wilson_interval
from nearfar.measures.rows import Embeddings, Indices, Rows, as_labels, as_rows, same_width, unit_rows

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C (inverse L2 strength) that the logistic probe chooses from, on standardised features."""
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""L2 strengths that the ridge probe chooses from, on standardised features."""
VALIDATION_SHARE = 0.2
FOLDS = 5

Predict = Callable[[Rows, Indices, Rows], Indices]


@dataclass(frozen=True)
class ProbeResult:
    """What a probe got right on rows it was not trained on.

    Attributes:
        accuracy: share of rows (micro average).
        macro_accuracy: mean over the test rows' classes of the share of the class.
        low, high: 95% Wilson interval of `accuracy`, over rows.
        n: rows tested.
    """

    accuracy: float
    macro_accuracy: float
    low: float
    high: float
    n: int


def knn_probe(
    keys: Embeddings,
    labels: ArrayLike,
    queries: Embeddings,
    query_labels: ArrayLike,
    k: int = 20,
    weights: Literal["majority", "distance"] = "majority",
) -> ProbeResult:
    """Label each query by a vote of its `k` nearest keys in cosine (as in Wu et al., CVPR 2018).

    A tied vote goes to the class whose voters are nearer in sum, then to the lower class.

    Args:
        keys: [M, d] with `labels` [M].
        queries: [Q, d] with `query_labels` [Q].
        k: voters; all keys where there are fewer.
        weights: "majority" counts voters, "distance" gives each 1 / (1 - cosine).

    Raises:
        ArgumentError: bad rows, labels that do not match, widths that differ, k below 1 or other weights.
    """
    if k < 1 or weights not in ("majority", "distance"):
        raise ArgumentError(f"k must be 1 or more and weights majority or distance, got {k} and {weights!r}")
    train, test = unit_rows(keys, "keys"), unit_rows(queries, "queries")
    same_width(train, test, ("keys", "queries"))
    y, y_test = _shared_labels(labels, query_labels, len(train), len(test))
    return _result(_vote(train, y, test, k, weights), y_test)


def logistic_probe(
    train: Embeddings, y: ArrayLike, test: Embeddings, y_test: ArrayLike, seed: int = 0
) -> ProbeResult:
    """Multinomial logistic regression on frozen embeddings (the linear probe).

    Features are standardised by the train rows alone; the L2 strength is the one of `STRENGTHS` that does
    best on a fifth of the train rows held out, and the probe is then fitted on all of them. The test rows
    decide nothing.

    Args:
        train: [M, d] with `y` [M], two classes or more.
        test: [Q, d] with `y_test` [Q].
        seed: of the held-out fifth.

    Raises:
        ArgumentError: bad rows, labels that do not match, widths that differ, or one class only.
    """
    rows, unseen = as_rows(train, "train"), as_rows(test, "test")
    same_width(rows, unseen, ("train", "test"))
    classes, truth = _shared_labels(y, y_test, len(rows), len(unseen))
    return _result(_logistic(rows, classes, unseen, seed), truth)


def ridge_probe(train: Embeddings, y: ArrayLike, test: Embeddings, y_test: ArrayLike) -> NDArray[np.float64]:
    """Linear regression on frozen embeddings: what part of each quantity's variance it explains.

    Features are standardised by the train rows; the L2 strength is the one of `PENALTIES` with the least
    leave-one-out error on them, for each quantity. The test rows decide nothing.

        R^2 = 1 - sum_i (y_i - f(x_i))^2 / sum_i (y_i - mean of the test rows' y)^2

    Args:
        train: [M, d] with `y` [M, C].
        test: [Q, d] with `y_test` [Q, C].

    Returns:
        R^2 of each quantity, [C]; at most 1, below 0 where the mean would do better.

    Raises:
        ArgumentError: bad rows, quantities that do not match or are not finite, or one that is constant.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    rows, unseen = as_rows(train, "train"), as_rows(test, "test")
    same_width(rows, unseen, ("train", "test"))
    wanted, truth = as_rows(y, "y"), as_rows(y_test, "y_test")
    same_width(wanted, truth, ("y", "y_test"))
    if len(wanted) != len(rows) or len(truth) != len(unseen):
        raise ArgumentError(
            f"one row of quantities for each embedding is needed: {len(rows)} and {len(unseen)} embeddings, "
            f"{len(wanted)} and {len(truth)} rows"
        )
    variance = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    if not variance.all():
        raise ArgumentError(f"quantity {int(np.argmin(variance)) + 1} is the same in all test rows")
    scaler = StandardScaler().fit(rows)
    fitted = RidgeCV(PENALTIES, alpha_per_target=True).fit(scaler.transform(rows), wanted)
    error = truth - fitted.predict(scaler.transform(unseen)).reshape(truth.shape)
    return np.asarray(1 - np.square(error).sum(axis=0) / variance, dtype=np.float64)


def cross_validated_probe(
    x: Embeddings,
    y: ArrayLike,
    kind: Literal["knn", "logistic"],
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Probe one table that has no split: 5 folds, stratified by class, every row tested once.

    Args:
        x: [N, d] with `y` [N].
        kind: "knn" (20 neighbours, majority) or "logistic".
        groups: [N]; rows of one group (speaker, product, equal raw value) stay in one fold.
        seed: of the folds and of the validation rows.

    Raises:
        ArgumentError: as the probes; a class, or its rows' groups, too few for any split.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if kind not in ("knn", "logistic"):
        raise ArgumentError(f"kind must be knn or logistic, got {kind!r}")
    rows = unit_rows(x, "x") if kind == "knn" else as_rows(x, "x")
    classes = as_labels(y, len(rows), "y")
    together = np.arange(len(rows)) if groups is None else as_labels(groups, len(rows), "groups")
    units = len(np.unique(together))
    if classes.max() < 1 or units < 2 or np.bincount(classes).max() < 2:
        raise ArgumentError(
            f"a cross-validated probe needs two classes, two groups and a class of two rows; got "
            f"{classes.max() + 1} classes in {units} groups"
        )
    folds = min(FOLDS, units, int(np.bincount(classes).max()))
    splitter: Any = StratifiedKFold if units == len(rows) else StratifiedGroupKFold
    predicted = np.full(len(rows), -1)
    with warnings.catch_warnings():
        # A class rarer than the folds is missing from some: its rows are still tested, and count as wrong.
        warnings.filterwarnings("ignore", message="The least populated class")
        folded = splitter(folds, shuffle=True, random_state=seed)
        splits = list(folded.split(rows, classes, None if units == len(rows) else together))
    for train, test in splits:
        if len(test) == 0:
            continue
        if len(np.unique(classes[train])) < 2:
            predicted[test] = classes[train][0]
        elif kind == "knn":
            predicted[test] = _vote(rows[train], classes[train], rows[test], 20, "majority")
        else:
            predicted[test] = _logistic(rows[train], classes[train], rows[test], seed)
    return _result(predicted, classes)


def _shared_labels(train: ArrayLike, test: ArrayLike, m: int, q: int) -> tuple[Indices, Indices]:
    one, two = np.asarray(train), np.asarray(test)
    if one.shape != (m,) or two.shape != (q,):
        raise ArgumentError(
            f"one label a row is needed: {m} and {q} rows, labels of shape {one.shape} and {two.shape}"
        )
    both = as_labels(np.concatenate([one, two]), m + q, "labels")
    return both[:m], both[m:]


def _vote(train: Rows, y: Indices, test: Rows, k: int, weights: str) -> Indices:
    found, cosines = nearest(test, train, min(k, len(train)))
    closeness = cosines.astype(np.float64)
    ballots = np.ones_like(closeness) if weights == "majority" else 1 / np.maximum(1 - closeness, 1e-7)
    predicted = np.empty(len(test), dtype=np.int64)
    for i, voters in enumerate(y[found]):
        votes = np.bincount(voters, ballots[i])
        nearness = np.bincount(voters, closeness[i] + 1)
        leaders = np.flatnonzero(votes == votes.max())
        predicted[i] = leaders[np.argmax(nearness[leaders])]
    return predicted


def _logistic(train: Rows, y: Indices, test: Rows, seed: int) -> Indices:
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y)) < 2:
        raise ArgumentError("a logistic probe needs two classes or more among its train rows")
    scaler = StandardScaler().fit(train)
    rows, unseen = scaler.transform(train), scaler.transform(test)
    common = np.bincount(y).max() > 1 and np.bincount(y)[np.unique(y)].min() > 1
    held_out = max(int(VALIDATION_SHARE * len(y)), len(np.unique(y)) if common else 1)
    if held_out > len(y) // 2:
        return np.asarray(_fit(rows, y, 1e-2).predict(unseen))
    fit, validate = train_test_split(
        np.arange(len(y)), test_size=held_out, random_state=seed, stratify=y if common else None
    )
    if len(np.unique(y[fit])) < 2:
        return np.asarray(_fit(rows, y, 1e-2).predict(unseen))
    scores = [np.mean(_fit(rows[fit], y[fit], c).predict(rows[validate]) == y[validate]) for c in STRENGTHS]
    return np.asarray(_fit(rows, y, STRENGTHS[int(np.argmax(scores))]).predict(unseen))


def _fit(rows: NDArray[Any], y: Indices, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Stopping early is a mild regulariser here, and validation chooses among what results.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Classes of a few rows each (records of one thing) are classes all the same.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        return LogisticRegression(C=strength, max_iter=200).fit(rows, y)


def _result(predicted: Indices, truth: Indices) -> ProbeResult:
    right = predicted == truth
    accuracy, low, high = wilson_interval(int(right.sum()), len(right))
    macro = np.mean([right[truth == label].mean() for label in np.unique(truth)])
    return ProbeResult(accuracy, float(macro), low, high, len(right))
