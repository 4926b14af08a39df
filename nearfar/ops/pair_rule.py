"""Which pairs take part in a denominator, said so that a kernel can ask for one tile at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PairRule:
    """Pairs of N rows with M columns that are left out of the denominators, or weighted in them.

    Attributes:
        skip_diagonal: pair (i, i) is left out.
        same: pairs whose row and column hold equal values are left out: (of the rows [N], of the columns [M]).
        near: `same` spares pairs whose row and column hold equal values here, and positive pairs.
        diagonal: weight of pair (i, i), 0 or more.
        weights: of the columns [M], 0 or more.
    """

    skip_diagonal: bool = False
    same: tuple[tuple[Tensor, Tensor], ...] = ()
    near: tuple[Tensor, Tensor] | None = None
    diagonal: float = 1.0
    weights: Tensor | None = None

    def apply_(
        self, tile: Tensor, rows: range, columns: range, positive: Tensor | None = None, *, logs: bool = False
    ) -> None:
        """Multiply a tile of exponentials by the weights of its pairs, 0 for those that are left out.

        Args:
            tile: [r, c], changed in place.
            rows: which of the N rows it holds.
            columns: which of the M columns.
            positive: [N] the positive column of each row, if there is one.
            logs: the tile holds logarithms; add those of the weights instead.
        """
        nothing = -torch.inf if logs else 0.0
        for of_rows, of_columns in self.same:
            tile.masked_fill_(self._left_out(of_rows, of_columns, rows, columns, positive), nothing)
        if self.weights is not None:
            weights = self.weights[columns.start : columns.stop]
            tile.add_(weights.log()) if logs else tile.mul_(weights)
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        if first >= last or not (self.skip_diagonal or self.diagonal != 1.0):
            return
        diagonal = tile[first - rows.start : last - rows.start, first - columns.start :].diagonal()
        if self.skip_diagonal:
            diagonal.fill_(nothing)
        elif logs:
            diagonal.add_(math.log(self.diagonal) if self.diagonal > 0 else -torch.inf)
        else:
            diagonal.mul_(self.diagonal)

    def _left_out(
        self, of_rows: Tensor, of_columns: Tensor, rows: range, columns: range, positive: Tensor | None
    ) -> Tensor:
        out = _equal(of_rows, of_columns, rows, columns)
        if self.near is not None:
            out &= ~_equal(*self.near, rows, columns)
        if positive is not None:
            place = positive[rows.start : rows.stop] - columns.start
            inside = ((place >= 0) & (place < len(columns))).nonzero()[:, 0]
            out[inside, place[inside]] = False
        return out

    def turned(self) -> PairRule:
        """The rule for the same pairs with columns as rows; it must have no weights of columns."""
        near = None if self.near is None else (self.near[1], self.near[0])
        same = tuple((of_columns, of_rows) for of_rows, of_columns in self.same)
        return replace(self, same=same, near=near)


def _equal(of_rows: Tensor, of_columns: Tensor, rows: range, columns: range) -> Tensor:
    return of_rows[rows.start : rows.stop, None] == of_columns[None, columns.start : columns.stop]
