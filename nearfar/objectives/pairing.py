"""Who is near whom: for every (query, key), near, far or ignored, and with what weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.objectives.adjustments import (
    Adjustment,
    DiagonalLogWeight,
    Hardest,
    IgnoredIds,
    IgnoredMask,
    KeyLogWeights,
    PairLogWeights,
)
from nearfar.objectives.nearness import Diagonal, Index, Nearness, Nothing, Same, Sampled, Twins, Weighted
from nearfar.objectives.tile import Block, Tile


@dataclass(frozen=True, eq=False)
class Pairing:
    """Says for B queries and M keys which pairs are near, far or ignored, without a B x M matrix.

    Made by one of the class methods, changed by the methods that return a new one:

        Pairing.same(labels).ignoring(document_ids).hardest(64)

    Only `weighted`, `ignoring_mask` and a `log_weighted` of pairs hold what is B x M from the start.
    Attributes are for those who evaluate it; nobody else needs them.

    Attributes:
        nearness: which keys are near.
        adjustments: what is ignored and weighted.
        rank: which far keys stay by their scores, if not all.
        turned: whether rows are the keys, see `reversed`.
    """

    nearness: Nearness
    adjustments: tuple[Adjustment, ...] = ()
    rank: Hardest | None = None
    turned: bool = False

    @classmethod
    def diagonal(cls, others: Literal["far", "ignored"] = "far") -> Self:
        """Key i is near query i. The other keys are far, or ignored (when all negatives are extra keys)."""
        if others not in ("far", "ignored"):
            raise ArgumentError(f"others must be 'far' or 'ignored', got {others!r}")
        return cls(Diagonal(others))

    @classmethod
    def twins(cls) -> Self:
        """Queries and keys are one tensor [2N, d], N first views and then their second views (NT-Xent).

        A row's other view is near, the row itself is ignored, all others are far.
        """
        return cls(Twins())

    @classmethod
    def same(cls, labels: Tensor, key_labels: Tensor | None = None) -> Self:
        """Equal labels are near, different ones far.

        Args:
            labels: of the queries, [B].
            key_labels: of the keys, [M]. None: the keys are the queries, and a row ignores itself.
        """
        return cls(Same(labels, key_labels))

    @classmethod
    def index(cls, targets: Tensor) -> Self:
        """Key targets[i] is near query i, all others are far.

        Args:
            targets: [B] numbers of keys.
        """
        return cls(Index(targets))

    @classmethod
    def sampled(cls, index: Tensor) -> Self:
        """Query i meets the keys index[i] only; the first is near, the rest are far.

        A key that a list names twice counts twice.

        Args:
            index: [B, C] numbers of keys.
        """
        if index.ndim != 2:
            raise ArgumentError(f"index must be B lists of C keys, [B, C], got shape {tuple(index.shape)}")
        return cls(Sampled(index))

    @classmethod
    def weighted(
        cls,
        W: Tensor,
        normalise: Literal["rows", "none"] = "rows",
        backward: Literal["renormalise", "same"] = "renormalise",
    ) -> Self:
        """Key j is near query i to the degree W[i, j]; no gradient reaches W. Keys of weight 0 are far.

        Args:
            W: [B, M], finite and not negative.
            normalise: "rows" divides a row by its sum; "none" takes the weights as they are.
            backward: the targets from keys to queries in a symmetric loss: "renormalise" treats W transposed
                as W was, "same" uses W as it stands for both (B = M).
        """
        if normalise not in ("rows", "none") or backward not in ("renormalise", "same"):
            raise ArgumentError(
                "weighted takes normalise 'rows' or 'none' and backward 'renormalise' or 'same', "
                f"got {normalise!r} and {backward!r}"
            )
        if W.ndim != 2:
            raise ArgumentError(f"W must be B queries x M keys, got shape {tuple(W.shape)}")
        return cls(Weighted.of(W.detach(), normalise, backward))

    @classmethod
    def none(cls) -> Self:
        """No key is near: all are far (for extra keys)."""
        return cls(Nothing())

    @property
    def is_plain_diagonal(self) -> bool:
        """Whether this is `Pairing.diagonal()` and nothing else."""
        plain = isinstance(self.nearness, Diagonal) and self.nearness.others == "far"
        return plain and not self.adjustments and self.rank is None

    def ignoring(self, ids: Tensor, key_ids: Tensor | None = None) -> Self:
        """Pairs of equal ids are no negatives: neither near nor far, unless they are near.

        Args:
            ids: of the queries, [B].
            key_ids: of the keys, [M]; None where query i and key i share an id.
        """
        return self._with(IgnoredIds(ids, key_ids))

    def ignoring_mask(self, mask: Tensor) -> Self:
        """Pairs where `mask` [B, M] is True are neither near nor far, even if they were near."""
        if mask.dtype != torch.bool:
            raise ArgumentError(f"mask must be boolean, True where a pair is ignored, got {mask.dtype}")
        return self._with(IgnoredMask(mask))

    def log_weighted(self, log_weights: Tensor) -> Self:
        """Add log-weights to pairs in the denominator (-inf: not in it); the pull of near pairs stays.

        Args:
            log_weights: [B, M], one for each pair, or [M], one for each key. Those of keys take no part in
                the second direction of a symmetric loss, whose columns are the queries.
        """
        if log_weights.ndim not in (1, 2):
            raise ArgumentError(f"log_weights must be [B, M] or [M], got shape {tuple(log_weights.shape)}")
        if not bool((log_weights.detach() < torch.inf).all()):
            raise ArgumentError("log_weights holds NaN or +infinity; -infinity ignores a far pair")
        return self._with(
            PairLogWeights(log_weights) if log_weights.ndim == 2 else KeyLogWeights(log_weights)
        )

    def log_weighted_diagonal(self, alpha: float) -> Self:
        """Give pair (i, i) the log-weight `alpha` (SimCSE's hard negatives: Gao et al., EMNLP 2021)."""
        if math.isnan(alpha) or alpha == math.inf:
            raise ArgumentError(f"alpha must be a number below infinity, got {alpha}")
        return self._with(DiagonalLogWeight(alpha))

    def hardest(self, r: int, skip: int = 0, below: float | None = None) -> Self:
        """Of the far keys of each row keep those of rank skip, ..., skip + r - 1 by score; ignore the rest.

        Args:
            r: keys kept per row (fewer where a row has fewer).
            skip: best-ranked keys that are ignored, as likely false negatives.
            below: of the kept keys, ignore those whose score (before the temperature) is above this.
        """
        return replace(self, rank=Hardest(r, skip, below))

    def _with(self, adjustment: Adjustment) -> Self:
        return replace(self, adjustments=(*self.adjustments, adjustment))

    def reversed(self) -> Self:
        """The pairing of keys with queries: the second direction of a symmetric loss."""
        kept = tuple(adjustment for adjustment in self.adjustments if not adjustment.only_forward)
        return replace(self, nearness=self.nearness.reversed(), adjustments=kept, turned=not self.turned)

    def check(self, n_rows: int, n_columns: int) -> None:
        """Raise ArgumentError unless the pairing fits n_rows queries and n_columns keys."""
        self.nearness.check(n_rows, n_columns)
        for adjustment in self.adjustments:
            adjustment.check(n_rows, n_columns)

    def block(self, tile: Tile) -> Block:
        """What the pairing says about the pairs of a tile, but for `rank`, which needs whole rows."""
        if self.turned:
            return replace(self, turned=False).block(tile.turned()).turned()
        block = self.nearness.block(tile)
        for adjustment in self.adjustments:
            block = adjustment.apply(block, tile)
        return block

    def rows_block(self, rows: range, n_rows: int, scores: Tensor) -> Block:
        """What the pairing says about whole rows, `rank` included.

        Args:
            rows: r of the n_rows queries.
            n_rows: queries in all.
            scores: of these rows, [r, M], before the temperature.
        """
        n_columns = scores.shape[1]
        block = self.block(Tile(rows, range(n_columns), n_rows, n_columns, scores.device, scores.dtype))
        return block if self.rank is None else self.rank.apply(block, scores)
