"""The modality gap: two towers fill two separate regions of one sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.measures.alignment import mean_positive_cosine, positive_margin
from nearfar.measures.probes import cross_validated_probe
from nearfar.measures.rows import EXACT_ROWS, Embeddings, as_labels, sample_rows, unit_pair

PROBE_ROWS = 2_500


@dataclass(frozen=True)
class ModalityGap:
    """How far two modalities lie apart.

    Attributes:
        distance: |mean(x) - mean(y)| on unit rows, 0 ... 2.
        separability: cross-validated accuracy of a logistic probe that tells x from y, on at most 2,500
            pairs; 0.5 means mixed, 1 means that a plane separates them.
        paired_cosine: mean cosine of the pairs.
        mismatched: share of pairs with another key as near or nearer than their own.
        n: pairs that all but the distance were taken on, at most 20,000.
    """

    distance: float
    separability: float
    paired_cosine: float
    mismatched: float
    n: int


def modality_gap(
    x: Embeddings, y: Embeddings, key_ids: ArrayLike | None = None, seed: int = 0
) -> ModalityGap:
    """The measures of "Explaining and Mitigating the Modality Gap ..." (CPAL 2025, arXiv 2412.07909).

    The gap itself is that of Liang et al., "Mind the Gap", NeurIPS 2022: the distance of the centroids.

    Args:
        x: [N, d] and y: [N, d], row-aligned pairs of two modalities.
        key_ids: [N]; rows of `y` with equal ids are one key (see `positive_margin`).
        seed: of samples and folds.

    Raises:
        ArgumentError: shapes differ, bad rows, or no two different keys.
    """
    one, two = unit_pair(x, y)
    ids = np.arange(len(one)) if key_ids is None else as_labels(key_ids, len(one), "key_ids")
    shift = one.mean(axis=0, dtype=np.float64) - two.mean(axis=0, dtype=np.float64)
    kept = sample_rows(len(one), EXACT_ROWS, seed)
    probed = sample_rows(len(one), PROBE_ROWS, seed)
    probe = cross_validated_probe(
        np.concatenate([one[probed], two[probed]]),
        np.repeat([0, 1], len(probed)),
        "logistic",
        groups=np.tile(probed, 2),
        seed=seed,
    )
    return ModalityGap(
        distance=float(np.linalg.norm(shift)),
        separability=probe.accuracy,
        paired_cosine=mean_positive_cosine(one[kept], two[kept]),
        mismatched=positive_margin(one[kept], two[kept], ids[kept]).mismatched,
        n=len(kept),
    )
