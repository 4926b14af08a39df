"""What changes a pairing after it has said who is near: ignored pairs, weights, ranks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.objectives.nearness import check_length, check_matrix
from nearfar.objectives.tile import Block, Tile
from nearfar.ops.pair_rule import PairRule


class Adjustment(ABC):
    """A change of a pairing that can be made tile by tile."""

    only_forward: bool = False
    """Whether it belongs to the direction from queries to keys alone."""

    @abstractmethod
    def apply(self, block: Block, tile: Tile) -> Block:
        """The changed block."""

    def check(self, n_rows: int, n_columns: int) -> None:
        """Raise ArgumentError unless it can say something about n_rows x n_columns pairs."""
        return

    def onto(self, rule: PairRule, device: torch.device) -> PairRule | None:
        """The rule of a streaming kernel with this change; None where it must be asked for every tile."""
        return None


@dataclass(frozen=True, eq=False)
class IgnoredIds(Adjustment):
    """Pairs of equal ids that are not near are ignored."""

    ids: Tensor
    key_ids: Tensor | None

    def check(self, n_rows: int, n_columns: int) -> None:
        check_length(self.ids, n_rows, "ids", "query")
        key_ids, name = (self.ids, "ids") if self.key_ids is None else (self.key_ids, "key_ids")
        check_length(key_ids, n_columns, name, "key")

    def apply(self, block: Block, tile: Tile) -> Block:
        key_ids = self.ids if self.key_ids is None else self.key_ids
        equal = tile.of_rows(self.ids)[:, None] == tile.of_columns(key_ids)[None, :]
        return block.without(equal & (block.target == 0))

    def onto(self, rule: PairRule, device: torch.device) -> PairRule:
        ids = self.ids.to(device)
        key_ids = ids if self.key_ids is None else self.key_ids.to(device)
        return replace(rule, same=(*rule.same, (ids, key_ids)))


@dataclass(frozen=True, eq=False)
class IgnoredMask(Adjustment):
    """Pairs that are True are ignored, near ones too."""

    mask: Tensor

    def check(self, n_rows: int, n_columns: int) -> None:
        check_matrix(self.mask, n_rows, n_columns, "mask")

    def apply(self, block: Block, tile: Tile) -> Block:
        mask = tile.of_pairs(self.mask)
        return Block(block.target.masked_fill(mask, 0), block.log_weight).without(mask)


@dataclass(frozen=True, eq=False)
class PairLogWeights(Adjustment):
    """A log-weight for each pair, [B, M]."""

    log_weights: Tensor

    def check(self, n_rows: int, n_columns: int) -> None:
        check_matrix(self.log_weights, n_rows, n_columns, "log_weights")

    def apply(self, block: Block, tile: Tile) -> Block:
        return block.weighted(tile.of_pairs(self.log_weights).to(tile.dtype))


@dataclass(frozen=True, eq=False)
class KeyLogWeights(Adjustment):
    """A log-weight for each key, [M]. Where keys are the rows, it would only move the loss's origin."""

    log_weights: Tensor
    only_forward = True

    def check(self, n_rows: int, n_columns: int) -> None:
        check_length(self.log_weights, n_columns, "log_weights", "key")

    def apply(self, block: Block, tile: Tile) -> Block:
        return block.weighted(tile.of_columns(self.log_weights).to(tile.dtype)[None, :])


@dataclass(frozen=True, eq=False)
class DiagonalLogWeight(Adjustment):
    """One log-weight for the pairs (i, i)."""

    alpha: float

    def apply(self, block: Block, tile: Tile) -> Block:
        on_diagonal = tile.row_index == tile.column_index
        return block.weighted(torch.zeros_like(block.target).masked_fill(on_diagonal, self.alpha))

    def onto(self, rule: PairRule, device: torch.device) -> PairRule:
        return replace(rule, diagonal=rule.diagonal * math.exp(self.alpha))


@dataclass(frozen=True)
class Hardest:
    """Of the far keys of each row, those of rank skip to skip + r - 1 by score stay, if not above `below`.

    Ranks need the scores of whole rows, so this is no `Adjustment`: an evaluation by tiles finds the
    skip + r best far keys of each row in a first pass.
    """

    r: int
    skip: int
    below: float | None

    def __post_init__(self) -> None:
        if self.r < 1 or self.skip < 0:
            raise ArgumentError(
                f"hardest keeps r >= 1 keys after skip >= 0, got r={self.r}, skip={self.skip}"
            )

    def apply(self, block: Block, scores: Tensor) -> Block:
        """Ignore the far keys that do not stay.

        Args:
            block: whole rows, [r, M].
            scores: [r, M], before the temperature.
        """
        far = block.far
        ranked = scores.detach().masked_fill(~far, -torch.inf)
        best = ranked.topk(min(self.skip + self.r, ranked.shape[1]), dim=1)
        kept = torch.zeros_like(far).scatter_(1, best.indices[:, self.skip :], True)
        if self.below is not None:
            kept &= ranked <= self.below
        return block.without(far & ~kept)

    def count(self, far: Tensor) -> Tensor:
        """How many of `far` far keys stay, leaving `below` aside."""
        return (far - self.skip).clamp(min=0, max=self.r)
