"""ClusterNS: SimCSE with hard negatives and likely false negatives from clusters that follow training."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from nearfar.batching.online_kmeans import OnlineKMeans
from nearfar.data.kinds import Text
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError, check_between
from nearfar.geometry import cosine, unit_rows
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import Pairing, band_hinge, info_nce
from nearfar.space import Space
from nearfar.views.text import dropout_twins


class ClusterNS(Method):
    """Dropout twins are near, the second nearest centroid is a hard negative, fellows of a cluster are held midway.

    z, z' [B, d] are the tanh heads of the two twins of one forward pass, c [K, d] the centroids:

        loss = mean_i -log e(z_i, z'_i) / sum_j [e(z_i, z'_j) + w_ij e(z_i, c_2nd(j))] + weight * band
        band = mean_ij [D_ij + low]_+ + [-D_ij - high]_+        D_ij = F_ij (cos(z_i, z'_j) - cos(z_i, z'_i))

    with e(x, y) = exp(cos(x, y) / t), w_ii = exp(a) and 1 elsewhere, and F_ij = 1 where rows i and j differ and
    share their nearest centroid. These likely false negatives stay in the softmax as well; the band wants them
    less near than the twin by `low` to `high`. All other pairs add the constant `low` to it. No gradient reaches the
    centroids, and a row's own one is no hard negative of it, though it may be that of another row.

    Before the mean of the B x B cosines has fallen to `start` this is SimCSE; then centroids are chosen from a
    batch, and each step moves them a little towards the means of their members. They move after a step, so that
    a batch meets centroids that do not know it; as released they move before its loss, which is one such
    movement less. Their memory is one view, where the release chooses the first ones across both. Whether the
    paper moves them by mean or by sum is from memory; the release sums (`variant="repo"`). The variant with
    prompts, and centroids that are replaced or learn by gradient, are not offered. The head is for training only.

    Args:
        clusters: K. The paper's batch is 256; a batch below K takes several to choose them (ours).
        momentum: of the centroids, the share of the new.
        start: mean cosine at which clustering begins.
        hard_negatives: whether centroids are negatives.
        hard_negative_log_weight: a, the LOGARITHM of the weight of the row's own hard negative.
        weight: of the band.
        low: where the band of differences begins.
        high: where it ends.
        temperature: t.
        variant: "paper", or "repo" to move centroids by the sum of their members.
        pooling: of the encoder, one of its pooling kinds; "own" keeps the pooling that the encoder's folder names,
            and is the paper's "cls" where it names none.

    Deng, Wan, Yang, Quan, Wang. "Clustering-Aware Negative Sampling for Unsupervised Sentence Representation."
    Findings of ACL 2023.
    """

    reads = {"text": Text}

    def __init__(
        self,
        encoder: TransformerText,
        clusters: int = 128,
        momentum: float = 1e-3,
        start: float = 0.4,
        hard_negatives: bool = True,
        hard_negative_log_weight: float = 0.0,
        weight: float = 1e-3,
        low: float = 0.0,
        high: float = 0.3,
        temperature: float = 0.05,
        variant: Literal["paper", "repo"] = "paper",
        pooling: Literal["own", "cls", "mean", "first_last", "top2"] = "own",
    ) -> None:
        super().__init__()
        check_between(0, math.inf, weight=weight)
        check_between(-math.inf, math.inf, start=start)
        check_between(1e-4, math.inf, temperature=temperature)
        if not low <= high:
            raise ArgumentError(f"low must not be above high, got {low} and {high}")
        if math.isnan(hard_negative_log_weight) or hard_negative_log_weight == math.inf:
            raise ArgumentError(
                f"hard_negative_log_weight must be a number below infinity, got {hard_negative_log_weight}"
            )
        if variant not in ("paper", "repo"):
            raise ArgumentError(f"variant must be 'paper' or 'repo', got {variant!r}")
        encoder.choose_pooling(pooling)
        encoder.normalise = False  # the head sees states at their own scale
        self.encoder = encoder
        self.head = Projection(encoder.dim, encoder.dim, kind="tanh")
        self.kmeans = OnlineKMeans(clusters, encoder.dim, momentum, "sum" if variant == "repo" else "mean")
        self.start, self.weight, self.low, self.high = start, weight, low, high
        self.hard_negatives, self.log_weight = hard_negatives, hard_negative_log_weight
        self.temperature = temperature

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        one, two = dropout_twins(self.encoder, batch["text"])
        return {"one": self.head(one.pooled), "two": self.head(two.pooled)}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        one, two = z["one"], z["two"]
        hard: dict[str, Any] = {}
        if self.hard_negatives and self.kmeans.started:
            pairing = Pairing.none().log_weighted_diagonal(self.log_weight)
            hard = {"extra_keys": self.kmeans.second(one), "extra_pairing": pairing}
        band = one.new_zeros(())
        if self.weight and self.kmeans.started:
            band = self.weight * band_hinge(self.differences(one, two), -self.high, -self.low)
        return {"info_nce": info_nce(one, two, temperature=self.temperature, **hard), "band": band}

    def differences(self, one: Tensor, two: Tensor) -> Tensor:
        """How much nearer fellows of a cluster are than the twin, [B, B]; 0 for all other pairs."""
        scores = cosine(one, two)
        return (scores - scores.diagonal()[:, None]) * self.kmeans.same_cluster(one)

    def negatives(self, batch_size: int) -> int:
        """Those of the batch, and the hard ones once there are clusters."""
        return batch_size - 1 + batch_size * (self.hard_negatives and self.kmeans.started)

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        if self.kmeans.started:
            self.kmeans.follow(z["one"])
        elif mean_cosine(z["one"], z["two"]) <= self.start:
            self.kmeans.start(z["one"])

    def notes(self) -> list[str]:
        if self.kmeans.started:
            return []
        return [
            f"there were no clusters: the mean cosine of a batch did not fall to {self.start:g}, or not long enough "
            "before the end; train longer, or raise start"
        ]

    def space(self) -> Space:
        return Space({"text": self.encoder})


def mean_cosine(one: Tensor, two: Tensor) -> float:
    """Mean of all B x B cosines of rows [B, d], those of twins included."""
    return float(unit_rows(one, "one").mean(dim=0) @ unit_rows(two, "two").mean(dim=0))
