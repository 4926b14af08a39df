"""Softmax sums of rows and columns at once: a first pass over the tiles sums, a second takes the gradient.

Exponentials are taken in place, of scores less a constant that keeps them from overflowing. Where a sum may
have lost terms to underflow, all is done again with sums that are kept as logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nearfar.ops.products import add_products, scores
from nearfar.ops.softmax_terms import Gradients, Group, Terms, exponent_limit, in_passes, smallest_sum
from nearfar.ops.tiles import TILE, column_tiles, gather, ranges

KEPT_CELLS = 1 << 23
"""Cells of exponentials that are kept for the second pass and not computed again: 32 MB of float32."""
WORTH_KEEPING = 0.1
"""Share of the matrix below which none are kept."""


def two_passes(x: Tensor, groups: Sequence[Group], terms: Terms, wanted: Gradients) -> Tensor:
    """`softmax_sums` with a term of columns, or of `x` against itself; without the gradient of the pull."""
    limit = exponent_limit(x.dtype, len(x) + sum(len(group.keys) for group in groups))
    return in_passes(lambda shift: _Passes(x, groups, terms, shift), terms.bound, limit, wanted)


class _Tile(NamedTuple):
    group: int
    rows: range
    columns: range
    mirrored: bool
    """Whether the tile stands for its mirror image too, in a matrix that is its own transpose."""

    @property
    def row(self) -> slice:
        return slice(self.rows.start, self.rows.stop)

    @property
    def column(self) -> slice:
        return slice(self.columns.start, self.columns.stop)


class _Passes:
    """Both passes; `shift` is taken from every score, None keeps sums as logarithms."""

    def __init__(self, x: Tensor, groups: Sequence[Group], terms: Terms, shift: float | None) -> None:
        self.x, self.groups, self.terms, self.shift = x, groups, terms, shift
        self.itself = groups[0].keys is x and terms.column is None
        empty = -torch.inf if shift is None else 0.0
        self.of_rows = x.new_full((len(x),), empty)
        self.of_columns = self.of_rows if self.itself else x.new_full((len(groups[0].keys),), empty)
        self.pulled = x.new_zeros(len(x))
        width = sum(len(group.keys) for group in groups)
        self.space = x.new_empty(2, min(TILE, len(x)) * min(TILE, width))
        cells = len(x) * width * (0.5 if self.itself else 1.0)
        self.room = KEPT_CELLS if shift is not None and WORTH_KEEPING * cells <= KEPT_CELLS else 0
        self.kept: dict[_Tile, Tensor] = {}

    def _tiles(self) -> Iterator[_Tile]:
        for rows in ranges(len(self.x), TILE):
            for index, columns, _ in column_tiles(self.groups):
                if not self.itself or columns.start >= rows.start:
                    yield _Tile(index, rows, columns, self.itself and columns.start > rows.start)

    def _place(self, tile: _Tile, which: int) -> Tensor:
        shape = len(tile.rows), len(tile.columns)
        return self.space[which, : shape[0] * shape[1]].view(shape)

    def _scores(self, tile: _Tile, out: Tensor) -> Tensor:
        return scores(self.x[tile.row], self.groups[tile.group].keys[tile.column], out)

    def _weigh(self, tile: _Tile, values: Tensor, *, logs: bool) -> Tensor:
        positive = self.terms.positive if tile.group == 0 else None
        self.groups[tile.group].rule.apply_(values, tile.rows, tile.columns, positive, logs=logs)
        return values

    def _exponentials(self, tile: _Tile, of: Tensor) -> Tensor:
        return self._weigh(tile, (of.sub_(self.shift) if self.shift else of).exp_(), logs=False)

    def first(self) -> bool:
        """Sum. False if sums may have lost terms."""
        for tile in self._tiles():
            keep = self.room >= len(tile.rows) * len(tile.columns)
            place = self._place(tile, 0)
            e = self._scores(tile, torch.empty_like(place) if keep else place)
            if keep:
                self.room -= e.numel()
                self.kept[tile] = e
            self._gather(tile, e)
            if self.shift is None:
                self._weigh(tile, e, logs=True)
            else:
                self._exponentials(tile, e)
            for totals, dim in self._totals(tile):
                more = e.logsumexp(dim) if self.shift is None else e.sum(dim)
                totals.copy_(torch.logaddexp(totals, more) if self.shift is None else totals + more)
        if self.shift is None:
            return True
        least = min(float(self.of_rows.amin()), float(self.of_columns.amin()))
        return not least < smallest_sum(self.x.dtype)

    def _totals(self, tile: _Tile) -> Iterator[tuple[Tensor, int]]:
        yield self.of_rows[tile.row], 1
        if tile.mirrored or (tile.group == 0 and not self.itself):
            yield self.of_columns[tile.column], 0

    def _gather(self, tile: _Tile, found: Tensor) -> None:
        if self.terms.positive is None or tile.group != 0:
            return
        n = len(self.groups[0].keys)
        gather(found, tile.columns, n, self.terms.positive[tile.row], self.pulled[tile.row])
        if tile.mirrored:
            gather(found.mT, tile.rows, n, self.terms.positive[tile.column], self.pulled[tile.column])

    def value(self) -> Tensor:
        """The sum, after the first pass."""
        terms = self.terms
        value = terms.row @ self._log(self.of_rows)
        if terms.column is not None:
            value = value + terms.column @ self._log(self.of_columns)
        if terms.pull is not None:
            value = value - terms.pull @ (self.pulled - self.shift if self.shift else self.pulled)
        return value + terms.rest * self.shift if self.shift else value

    def _log(self, totals: Tensor) -> Tensor:
        return totals if self.shift is None else totals.log()

    def second(self, wanted: Gradients) -> None:
        """Take the gradients of all but the pull."""
        row, column = self.terms.row, self.terms.row if self.itself else self.terms.column
        if self.shift is not None:
            row = row / self.of_rows
            column = None if column is None else column / self.of_columns
        for tile in self._tiles():
            g = self._d_scores(tile, row[tile.row], None if column is None else column[tile.column])
            keys = self.groups[tile.group].keys[tile.column]
            d_keys, d_weights = wanted.keys[tile.group], wanted.log_weights[tile.group]
            if self.itself:
                d_keys = wanted.x if tile.mirrored else None
            d_x = None if wanted.x is None else wanted.x[tile.row]
            add_products(g, self.x[tile.row], keys, d_x, None if d_keys is None else d_keys[tile.column])
            if d_weights is not None:
                d_weights[tile.column] += g.sum(0)

    def _d_scores(self, tile: _Tile, row: Tensor, column: Tensor | None) -> Tensor:
        """Gradient of the sum for the scores of a tile: that of its rows and, in the first group, of its columns."""
        first = tile.group == 0
        if self.shift is None:
            scores = self._weigh(tile, self._scores(tile, self._place(tile, 0)), logs=True)
            other = (
                torch.sub(scores, self.of_columns[tile.column], out=self._place(tile, 1)) if first else None
            )
            g = scores.sub_(self.of_rows[tile.row, None]).exp_().mul_(row[:, None])
            return g if other is None or column is None else g.add_(other.exp_().mul_(column))
        e = self.kept.get(tile)
        if e is None:
            e = self._exponentials(tile, self._scores(tile, self._place(tile, 0)))
        if column is None or not first:
            return e.mul_(row[:, None])
        return e.mul_(torch.add(row[:, None], column, out=self._place(tile, 1)))
