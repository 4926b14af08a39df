"""Each measure applied to the roles of one table; `measure_embeddings` decides which of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nearfar.geometry import gram_volume
from nearfar.measures.alignment import alignment, mean_positive_cosine, sampled_uniformity
from nearfar.measures.clustering import clustering_metrics, kmeans_measure
from nearfar.measures.hubness import hubness
from nearfar.measures.hyperbolic import radii
from nearfar.measures.measurement import Measurement, left_out
from nearfar.measures.modality import modality_gap
from nearfar.measures.nearness import pair_nearness
from nearfar.measures.probes import cross_validated_probe
from nearfar.measures.retrieval import retrieval_metrics
from nearfar.measures.rows import EXACT_ROWS, Indices, Rows, as_labels, as_values, sample_rows
from nearfar.measures.spread import isotropy, spectrum
from nearfar.measures.sts import sts

POSITIVE_SHARE = 0.8
"""Scored pairs with at least this share of the largest score are positive (STS-B: 4 of 5, as in SimCSE)."""
RETRIEVAL_QUERIES = 10_000
LOGISTIC_ROWS = 2_500
COLLAPSED_ISOTROPY = 0.01
COLLAPSED_RANK = 1.5


@dataclass(frozen=True)
class Embedded:
    """One role of a table: its embeddings as given and on the sphere, [N, d], and which cells are equal.

    In the geometry "lorentz" the rows are points of hyperbolic space, and those on the sphere are the directions in
    which they lie from the root.
    """

    role: str
    modality: str
    rows: Rows
    unit: Rows
    ids: Indices
    geometry: str = "cosine"


def across(one: Embedded, two: Embedded) -> bool:
    """Whether two roles are of different modality."""
    return one.modality != two.modality


def _nearness(one: Embedded, two: Embedded) -> np.ndarray:
    """How near row i of one role is to row i of another, by what the space compares with: [N]."""
    return pair_nearness(one.rows, two.rows, one.geometry)


def _first_rows(ids: Indices) -> Indices:
    return np.sort(np.unique(ids, return_index=True)[1])


def spread_of(role: Embedded, seed: int) -> list[Measurement]:
    """How a modality fills its space; equal cells count once."""
    kept = _first_rows(role.ids)
    n = len(kept)
    if n < 2:
        return [
            left_out("spread", len(role.ids), len(role.ids), f"all cells of {role.role} are equal: no spread")
        ]
    unit, d = role.unit[kept], role.unit.shape[1]
    even, occurrence = sampled_uniformity(unit, seed=seed), hubness(unit, k=min(10, n - 1), seed=seed)
    rank, free, most = spectrum(role.rows[kept]).effective_rank, isotropy(unit), min(n - 1, d)
    signs = [f"the mean cosine of different rows is {1 - free:.3f}"] * (free < COLLAPSED_ISOTROPY)
    signs += [f"{rank:.2f} of {most} directions are in use"] * (rank < COLLAPSED_RANK and most > 2)
    about_collapse = (
        "collapsed: " + " and ".join(signs) if signs else "signs of collapse (equal rows, one direction)"
    )
    found = [
        Measurement("uniformity", even.value, even.n, "lower", f"log mean exp(-2 distance^2), d={d}, t=2"),
        Measurement("effective_rank", rank, n, "higher", f"directions in use, of at most {most}"),
        Measurement("effective_rank_share", rank / most, n, "higher", f"effective rank / {most}"),
        Measurement(
            "isotropy", free, n, "higher", f"1 - mean cosine of different rows (anisotropy {1 - free:.3f})"
        ),
        Measurement(
            "hubness",
            occurrence.skewness,
            occurrence.n,
            "closer_to_zero",
            f"skewness of {occurrence.k}-occurrence",
        ),
        Measurement(
            "antihubs",
            occurrence.antihubs,
            occurrence.n,
            "lower",
            f"share in no row's {occurrence.k} nearest",
        ),
        Measurement("collapse", float(len(signs)), n, "lower", about_collapse),
    ]
    if role.geometry == "lorentz":
        middle = float(np.median(radii(role.rows[kept])))
        found.append(Measurement("radius", middle, n, "neither", "median distance from the root"))
    return found


def scores_of(
    anchor: Embedded, partner: Embedded, column: Sequence[Any]
) -> tuple[list[Measurement], Indices]:
    """Cosines against scores, and the pairs whose score makes them positives."""
    scores = as_values(column, "column 'score'")
    if np.ptp(scores) == 0:
        why = "all scores are equal: no order to compare with, all pairs taken as positive"
        return [left_out("score", len(scores), len(scores), why)], np.arange(len(scores))
    rho = sts(_nearness(anchor, partner), scores)
    pairs = np.flatnonzero(scores >= POSITIVE_SHARE * scores.max()) if scores.max() > 0 else np.arange(0)
    by = "cosine" if anchor.geometry == "cosine" else "nearness"
    found = [Measurement("sts", rho, len(scores), "higher", f"Spearman correlation of {by} and score")]
    if len(pairs) < len(scores):
        why = f"pairs scored below {POSITIVE_SHARE:.0%} of the largest are no positives: no alignment"
        found.append(left_out("alignment", len(scores) - len(pairs), len(scores), why))
    return found, pairs


def pairs_of(anchor: Embedded, partner: Embedded, pairs: Indices, seed: int) -> list[Measurement]:
    """How near positive pairs are, and the gap where they are of two modalities."""
    x, y, n = anchor.unit[pairs], partner.unit[pairs], len(pairs)
    found = [
        Measurement(
            "alignment",
            alignment(x, y),
            n,
            "lower",
            f"mean squared distance of positive pairs, d={x.shape[1]}",
        ),
        Measurement(
            "mean_positive_cosine", mean_positive_cosine(x, y), n, "higher", "mean cosine of positive pairs"
        ),
    ]
    ids = partner.ids[pairs]
    if not across(anchor, partner):
        return found
    if len(np.unique(ids)) < 2:
        return [*found, left_out("modality_gap", n, n, f"fewer than two different cells of {partner.role}")]
    gap = modality_gap(x, y, ids, seed)
    return [
        *found,
        Measurement(
            "modality_gap", gap.distance, n, "closer_to_zero", "distance of the centroids of both modalities"
        ),
        Measurement(
            "modality_separability",
            gap.separability,
            gap.n,
            "lower",
            "accuracy of a linear probe, 0.5 is mixed",
        ),
        Measurement(
            "mismatch_share", gap.mismatched, gap.n, "lower", "share of pairs with another key as near"
        ),
    ]


def volume_of(roles: Sequence[Embedded]) -> Measurement:
    """How nearly all embeddings of a row lie together."""
    stacked = torch.from_numpy(np.stack([role.unit for role in roles], axis=1))
    volume = float(gram_volume(stacked).mean())
    about = f"mean volume that {', '.join(role.role for role in roles)} of a row span, 0 to 1"
    return Measurement("volume", volume, len(stacked), "lower", about)


def retrieval_of(query: Embedded, key: Embedded, seed: int) -> list[Measurement]:
    """Find the keys of each query, among the different cells of the other role."""
    asked, keys = _first_rows(query.ids), _first_rows(key.ids)
    if len(keys) < 2:
        return [
            left_out("retrieval", len(key.ids), len(key.ids), f"all cells of {key.role} are equal: one key")
        ]
    asked = asked[sample_rows(len(asked), RETRIEVAL_QUERIES, seed)]
    position = {int(key.ids[row]): i for i, row in enumerate(keys)}
    answers: dict[int, set[int]] = {}
    for q, k in zip(query.ids.tolist(), key.ids.tolist(), strict=True):
        answers.setdefault(q, set()).add(position[k])
    positives = [sorted(answers[int(query.ids[row])]) for row in asked]
    figures = retrieval_metrics(query.rows[asked], key.rows[keys], positives, geometry=query.geometry)
    several = max(map(len, positives)) > 1
    where = f"{query.role} to {key.role}, {len(keys)} different keys"
    about = {
        "mrr@10": "mean of 1 / rank of the best right key",
        "recall@1": "share of the right keys in place 1",
        "recall@10": "share of the right keys in the first 10",
    } | ({"hit@1": "share of queries with a right key in place 1"} if several else {})
    return [
        Measurement(name, figures[name], len(asked), "higher", f"{says}, {where}")
        for name, says in about.items()
    ]


def triplets_of(anchor: Embedded, partners: list[Embedded], negative: Embedded) -> list[Measurement]:
    """How often the positive is nearer than the negative of the row."""
    n = len(anchor.rows)
    if not partners:
        return [left_out("negative", n, n, "a role negative needs a positive beside it")]
    nearer = _nearness(anchor, partners[0]) > _nearness(anchor, negative)
    about = f"share of rows whose {partners[0].role} is nearer than their negative"
    return [Measurement("triplet_accuracy", float(nearer.mean()), n, "higher", about)]


def labels_of(
    role: Embedded, labels: Sequence[Any], groups: Sequence[Any] | None, seed: int
) -> list[Measurement]:
    """Probes and clusters against labels, without the classes of one row."""
    n = len(labels)
    classes = as_labels(np.asarray(labels), n, "column 'label'")
    together = role.ids if groups is None else as_labels(np.asarray(groups), n, "column 'group'")
    kept = np.flatnonzero(np.bincount(classes)[classes] > 1)
    found = []
    if len(kept) < n:
        found.append(
            left_out(
                "label", n - len(kept), n, "rows whose class has no other row: not in the label measures"
            )
        )
    if len(np.unique(classes[kept])) < 2 or len(np.unique(together[kept])) < 2:
        why = "the label measures need two classes of two rows or more, in two groups or more"
        return [left_out("label", n, n, why)]
    exact = kept[sample_rows(len(kept), EXACT_ROWS, seed)]
    fewer = kept[sample_rows(len(kept), LOGISTIC_ROWS, seed)]
    knn = cross_validated_probe(role.unit[exact], classes[exact], "knn", together[exact], seed)
    linear = cross_validated_probe(role.rows[fewer], classes[fewer], "logistic", together[fewer], seed)
    clusters = kmeans_measure(role.unit[exact], classes[exact], seed)
    count = len(np.unique(classes[kept]))
    return [
        *found,
        Measurement(
            "knn_accuracy", knn.accuracy, knn.n, "higher", f"20 nearest neighbours vote on {count} classes"
        ),
        Measurement(
            "logistic_accuracy", linear.accuracy, linear.n, "higher", f"a linear probe of {count} classes"
        ),
        Measurement(
            "clustering_nmi",
            clusters.nmi,
            len(exact),
            "higher",
            f"k-means into {count} clusters, mutual information",
        ),
        Measurement(
            "clustering_ari",
            clusters.ari,
            len(exact),
            "higher",
            f"k-means into {count} clusters, adjusted Rand",
        ),
    ]


def clusters_of(clusters: Sequence[int], labels: Sequence[Any] | None) -> list[Measurement]:
    """The clusters that a space itself puts rows into, and how well they match classes."""
    n, used = len(clusters), len(set(clusters))
    found = [
        Measurement("own_clusters_used", float(used), n, "neither", "clusters of the space that hold a row")
    ]
    if labels is None:
        return found
    against = clustering_metrics(clusters, labels)
    classes = len(set(labels))
    how = f"clusters of the space against {classes} classes"
    return [
        *found,
        Measurement("own_cluster_accuracy", against.accuracy, n, "higher", f"{how}, matched one to one"),
        Measurement(
            "own_cluster_purity", against.purity, n, "higher", f"{how}, each cluster its commonest class"
        ),
        Measurement("own_cluster_nmi", against.nmi, n, "higher", f"{how}, mutual information"),
        Measurement("own_cluster_ari", against.ari, n, "higher", f"{how}, adjusted Rand"),
    ]
