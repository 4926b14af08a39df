"""A block of (query, key) pairs, and what a pairing says about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows x columns cut out of a matrix of n_rows queries and n_columns keys.

    Attributes:
        rows: r consecutive queries.
        columns: c consecutive keys.
        n_rows: queries in all.
        n_columns: keys in all.
        device: where the block is wanted.
        dtype: of its numbers.
    """

    rows: range
    columns: range
    n_rows: int
    n_columns: int
    device: torch.device
    dtype: torch.dtype

    @property
    def row_index(self) -> Tensor:
        """Numbers of the queries: [r, 1]."""
        return torch.arange(self.rows.start, self.rows.stop, device=self.device)[:, None]

    @property
    def column_index(self) -> Tensor:
        """Numbers of the keys: [1, c]."""
        return torch.arange(self.columns.start, self.columns.stop, device=self.device)[None, :]

    def of_rows(self, values: Tensor) -> Tensor:
        """The part of `values` [n_rows, ...] that belongs to these queries: [r, ...]."""
        return values[self.rows.start : self.rows.stop].to(self.device)

    def of_columns(self, values: Tensor) -> Tensor:
        """The part of `values` [n_columns, ...] that belongs to these keys: [c, ...]."""
        return values[self.columns.start : self.columns.stop].to(self.device)

    def of_pairs(self, values: Tensor) -> Tensor:
        """The part of `values` [n_rows, n_columns] that belongs to these pairs: [r, c]."""
        return self.of_rows(values[:, self.columns.start : self.columns.stop])

    def turned(self) -> Tile:
        """The same pairs with keys as rows."""
        return Tile(self.columns, self.rows, self.n_columns, self.n_rows, self.device, self.dtype)


@dataclass(frozen=True)
class Block:
    """What a pairing says about the r x c pairs of a tile.

    Attributes:
        target: [r, c], above 0 where near (1, or a soft weight), 0 elsewhere.
        log_weight: [r, c], logarithm of a pair's weight in the denominator: 0 takes part, -inf does not.
            A pair with target 0 and -inf is ignored. None means 0 everywhere.
    """

    target: Tensor
    log_weight: Tensor | None = None

    @property
    def far(self) -> Tensor:
        """True where a pair is in the denominator and not near: [r, c]."""
        far = self.target == 0
        return far if self.log_weight is None else far & (self.log_weight > -torch.inf)

    def weighted(self, log_weight: Tensor) -> Block:
        """The block with `log_weight`, broadcast to [r, c], added."""
        total = log_weight.expand_as(self.target) if self.log_weight is None else self.log_weight + log_weight
        return Block(self.target, total)

    def without(self, mask: Tensor) -> Block:
        """The block with the pairs of `mask` [r, c] out of the denominator; near ones stay near."""
        out = torch.zeros_like(self.target).masked_fill(mask, -torch.inf)
        return self.weighted(out)

    def turned(self) -> Block:
        """The same pairs with keys as rows: [c, r]."""
        return Block(self.target.mT, None if self.log_weight is None else self.log_weight.mT)

    @staticmethod
    def beside(blocks: list[Block]) -> Block:
        """One block of the columns of several."""
        if len(blocks) == 1:
            return blocks[0]
        weights: list[Tensor] | None = None
        if any(block.log_weight is not None for block in blocks):
            weights = [torch.zeros_like(b.target) if b.log_weight is None else b.log_weight for b in blocks]
        return Block(
            torch.cat([b.target for b in blocks], 1), None if weights is None else torch.cat(weights, 1)
        )
