"""Softmax sums of rows over all columns, in PyTorch: whole rows at a time, gradients taken at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.ops.products import add_products, scores
from nearfar.ops.softmax_terms import Gradients, Group, Terms, exponent_limit
from nearfar.ops.tiles import TILE, column_tiles, gather, ranges
from nearfar.ops.two_passes import two_passes

BLOCK_SHARE = 20
"""A block of whole rows holds at most one in so many cells of the matrix, where that is enough rows, ..."""
BLOCK_CELLS = 3 << 22
"""... and never more cells than these: 48 MB of float32."""
LEAST_ROWS = 256
"""Rows of a block that are enough: fewer make thin products."""


def softmax_sums(x: Tensor, groups: Sequence[Group], terms: Terms, wanted: Gradients) -> Tensor:
    """The sum of `terms`; its gradients are added to what is wanted.

    d is the width, a multiply-add counts as two operations. Rows alone: a block of whole rows is finished and
    its gradient taken at once, 6 N M d. Rows and columns: once for the sums and once more for the gradient,
    8 N M d. Rows against themselves (the keys of the only group are `x`, and its rule is symmetric): the same
    over half of the symmetric matrix, 4 N N d.

    Args:
        x: [N, d], float32 or float64.
        groups: columns, of the same type and device.
        terms: what to sum.
        wanted: zeros of the shapes of the gradients. With `x` against itself, `wanted.x` gets all of it.

    Returns:
        The value: a scalar, not finite if an input is not, or if a row (column) has no pair.
    """
    itself = len(groups) == 1 and groups[0].keys is x and terms.column is None
    sums = _rows_at_once if terms.column is None and not itself else two_passes
    value = sums(x, groups, terms, wanted)
    _add_pull(x, groups[0].keys, terms, wanted.x, wanted.x if itself else wanted.keys[0])
    return value


def _rows_at_once(x: Tensor, groups: Sequence[Group], terms: Terms, wanted: Gradients) -> Tensor:
    width = sum(len(group.keys) for group in groups)
    rows_of = min(max(LEAST_ROWS, len(x) // BLOCK_SHARE), BLOCK_CELLS // max(width, 1))
    height = max(1, min(len(x), TILE, rows_of))
    block = x.new_empty(height * width)
    plain = terms.bound <= exponent_limit(x.dtype, width + 1)
    value = x.new_zeros(())
    for rows in ranges(len(x), height):
        at = slice(rows.start, rows.stop)
        pulled = x.new_zeros(len(rows))
        tiles = []
        for index, columns, start in column_tiles(groups):
            group = groups[index]
            place = block[len(rows) * start : len(rows) * (start + len(columns))].view(
                len(rows), len(columns)
            )
            tile = scores(x[at], group.keys[columns.start : columns.stop], place)
            positive = terms.positive if index == 0 else None
            if positive is not None:
                gather(tile, columns, len(group.keys), positive[at], pulled)
            group.rule.apply_(tile.exp_() if plain else tile, rows, columns, positive, logs=not plain)
            tiles.append((index, slice(columns.start, columns.stop), tile))
        row, own = terms.row[at], None if terms.own is None else terms.own[at]
        shift: Tensor | None = None
        if not plain:
            shift = _largest([tile for _, _, tile in tiles], own)
            for _, _, tile in tiles:
                tile.sub_(shift[:, None]).exp_()
            pulled -= shift
        sums = _added([tile.sum(1) for _, _, tile in tiles])
        if own is not None:
            own = own if shift is None else own - shift
            sums += own.exp()
            value -= row @ own
        value += row @ sums.log()
        share = row / sums
        if wanted.own is not None and own is not None:
            wanted.own[at] = share * own.exp() - row
        if terms.pull is not None:
            value -= terms.pull[at] @ pulled
            row = row - terms.pull[at]
        if shift is not None and own is None:
            value += row @ shift
        if wanted.any:
            _add_rows(x[at], tiles, share, groups, wanted, at)
    return value


def _largest(tiles: Sequence[Tensor], own: Tensor | None) -> Tensor:
    found = [tile.amax(1) for tile in tiles]
    return torch.stack(found if own is None else [*found, own]).amax(0)


def _added(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _add_rows(
    x: Tensor,
    tiles: Sequence[tuple[int, slice, Tensor]],
    share: Tensor,
    groups: Sequence[Group],
    wanted: Gradients,
    at: slice,
) -> None:
    """Add the gradients of a block of whole rows: those of the scores are share_i e_ij."""
    shared = x * share[:, None]
    d_x = None if wanted.x is None else torch.zeros_like(x)
    for index, columns, e in tiles:
        d_keys, d_weights = wanted.keys[index], wanted.log_weights[index]
        of_keys = None if d_keys is None else d_keys[columns]
        add_products(e, shared, groups[index].keys[columns], d_x, of_keys)
        if d_weights is not None:
            d_weights[columns].addmv_(e.mT, share)
    if wanted.x is not None and d_x is not None:
        wanted.x[at] += d_x.mul_(share[:, None])


def _add_pull(x: Tensor, keys: Tensor, terms: Terms, d_x: Tensor | None, d_keys: Tensor | None) -> None:
    if terms.positive is None or terms.pull is None:
        return
    for rows in ranges(len(x), 4 * TILE):
        at = slice(rows.start, rows.stop)
        pull, positive = -terms.pull[at, None], terms.positive[at]
        if d_keys is not None:
            d_keys.index_add_(0, positive, pull * x[at])
        if d_x is not None:
            d_x[at].addcmul_(pull, keys[positive])
