"""The two Triton kernels of the streaming softmax: sums of exponentials of a block, and gradients of its scores.

Both are a matrix product of rows and columns whose result never leaves the chip: a program computes one tile of
scores, turns it into exponentials and either adds these up or writes the gradient. Nothing is added atomically.

This module imports Triton; `nearfar.ops.triton_softmax` imports it when a kernel is launched.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

GROUP = tl.constexpr(8)
"""Tiles of rows that are visited together, so that their rows and columns stay in the second-level cache."""
LOG2_E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LN_2 = tl.constexpr(0.6931471805599453)

_SIZES = [
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
    (128, 128, 64, 4, 3),
    (128, 128, 32, 8, 4),
    (128, 64, 32, 4, 4),
    (64, 64, 32, 4, 3),
]


def _configs() -> list[triton.Config]:
    sizes = [(16, 32, 16, 1, 1)] if INTERPRETED.value else _SIZES
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": d}, num_warps=warps, num_stages=stages)
        for m, n, d, warps, stages in sizes
    ]


SMALLEST_TILE = min(min(size.kwargs["BLOCK_M"], size.kwargs["BLOCK_N"]) for size in _configs())
"""Rows or columns of the smallest tile."""

# `bucket` is there for the tuner alone, which also tells types apart.
_tuned = triton.autotune(configs=_configs(), key=["bucket"], cache_results=True)


class Pairs(NamedTuple):
    """The block of pairs that a kernel works on: pointers to the entries of its rows and columns, and numbers.

    Attributes:
        n_rows: of the block.
        n_columns: of the block.
        first_row: place of the block in the matrix.
        first_column: the same.
        bias: [n_columns] log2(w_j) - shift log2(e), float32.
        row_ids: SAME lines of integers, `ids_rows` apart; pairs with one equal to that of the column are left out.
        column_ids: SAME lines, `ids_columns` apart.
        ids_rows: rows of the matrix.
        ids_columns: columns of the matrix.
        near_rows: integers that spare pairs where they are equal; None: there are none.
        near_columns: the same.
        positive: [n_rows] column in the matrix, spared as well; None: there are none.
        log2_diagonal: log2 of the weight of pairs (i, i) of the matrix; None: it is 1.
    """

    n_rows: Any
    n_columns: Any
    first_row: Any
    first_column: Any
    bias: Any
    row_ids: Any
    column_ids: Any
    ids_rows: Any
    ids_columns: Any
    near_rows: Any
    near_columns: Any
    positive: Any
    log2_diagonal: Any


@triton.jit
def _scores(x, keys, row, column, d, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr):
    """x_row . k_column, [BLOCK_M, BLOCK_N] float32."""
    place = tl.arange(0, BLOCK_D)
    left = x + row[:, None] * d + place[None, :]
    right = keys + column[None, :] * d + place[:, None]
    scores = tl.zeros((row.shape[0], column.shape[0]), dtype=tl.float32)
    for start in range(0, d, BLOCK_D):
        inside = place < d - start
        a = tl.load(left, mask=inside[None, :], other=0.0)
        b = tl.load(right, mask=inside[:, None], other=0.0)
        if INTERPRETED:  # it would multiply the bits of bfloat16 as integers
            a, b = a.to(tl.float32), b.to(tl.float32)
        scores = tl.dot(a, b, scores, input_precision=PRECISION)
        left += BLOCK_D
        right += BLOCK_D
    return scores


@triton.jit
def _equal(of_rows, of_columns, row, column, pairs):
    """Which pairs of a tile have equal integers: [BLOCK_M, BLOCK_N]."""
    of_row = tl.load(of_rows + row, mask=row < pairs.n_rows, other=0)
    of_column = tl.load(of_columns + column, mask=column < pairs.n_columns, other=0)
    return of_row[:, None] == of_column[None, :]


@triton.jit
def _exponents(
    x, keys, pairs, row, column, d, SAME: tl.constexpr, PRECISION: tl.constexpr, BLOCK_D: tl.constexpr
):
    """log2( w_ij e^{s_ij - shift} ) of a tile; minus infinity where the pair is left out or does not exist."""
    rows, columns = row < pairs.n_rows, column < pairs.n_columns
    # Rows and columns beyond the end repeat the last one: reads stay inside, and the values are not used.
    last_row, last_column = tl.minimum(row, pairs.n_rows - 1), tl.minimum(column, pairs.n_columns - 1)
    scores = _scores(x, keys, last_row, last_column, d, PRECISION, BLOCK_D)
    nothing = float("-inf")
    exponents = scores * LOG2_E + tl.load(pairs.bias + column, mask=columns, other=nothing)[None, :]
    exponents = tl.where(rows[:, None], exponents, nothing)  # the bias has done it for columns
    if SAME > 0:
        out = _equal(pairs.row_ids, pairs.column_ids, row, column, pairs)
        for line in tl.static_range(1, SAME):
            of_rows, of_columns = (
                pairs.row_ids + line * pairs.ids_rows,
                pairs.column_ids + line * pairs.ids_columns,
            )
            out = out | _equal(of_rows, of_columns, row, column, pairs)
        if pairs.near_rows is not None:
            out = out & (_equal(pairs.near_rows, pairs.near_columns, row, column, pairs) == 0)
        if pairs.positive is not None:
            of_row = tl.load(pairs.positive + row, mask=rows, other=-1)
            out = out & (of_row[:, None] != (pairs.first_column + column)[None, :])
        exponents = tl.where(out, nothing, exponents)
    if pairs.log2_diagonal is not None:
        on = (pairs.first_row + row)[:, None] == (pairs.first_column + column)[None, :]
        exponents = tl.where(on, exponents + pairs.log2_diagonal, exponents)
    return exponents


@triton.jit
def _place(pairs, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which tile this program computes (of rows, of columns), and its rows and columns in the block."""
    tiles_m, tiles_n = tl.cdiv(pairs.n_rows, BLOCK_M), tl.cdiv(pairs.n_columns, BLOCK_N)
    program = tl.program_id(0)
    m, n = tl.swizzle2d(program // tiles_n, program % tiles_n, tiles_m, tiles_n, GROUP)
    return m, n, m * BLOCK_M + tl.arange(0, BLOCK_M), n * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _log_sum(exponents, AXIS: tl.constexpr):
    """Natural logarithm of the sum of 2^exponents over an axis."""
    top = tl.max(exponents, AXIS)
    top = tl.where(top > float("-inf"), top, 0.0)
    return LN_2 * (top + tl.log2(tl.sum(tl.exp2(exponents - tl.expand_dims(top, AXIS)), AXIS)))


@_tuned
@triton.jit(do_not_specialize=["bucket"])
def sums(
    x,
    keys,
    pairs,
    d,
    bucket,
    row_sums,
    column_sums,
    SAME: tl.constexpr,
    LOGS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sums (LOGS: their logarithms) of exponentials over the columns of a tile, and over its rows.

    Writes row_sums[tile of columns, row] and column_sums[tile of rows, column], float32; `column_sums` may be None.
    """
    tile_m, tile_n, row, column = _place(pairs, BLOCK_M, BLOCK_N)
    exponents = _exponents(x, keys, pairs, row, column, d, SAME, PRECISION, BLOCK_D)
    e = exponents if LOGS else tl.exp2(exponents)
    of_rows = _log_sum(e, 1) if LOGS else tl.sum(e, 1)
    tl.store(row_sums + tile_n * pairs.n_rows + row, of_rows, mask=row < pairs.n_rows)
    if column_sums is not None:
        of_columns = _log_sum(e, 0) if LOGS else tl.sum(e, 0)
        tl.store(column_sums + tile_m * pairs.n_columns + column, of_columns, mask=column < pairs.n_columns)


@_tuned
@triton.jit(do_not_specialize=["bucket"])
def score_gradients(
    x,
    keys,
    pairs,
    d,
    bucket,
    row_share,
    row_log,
    column_share,
    column_log,
    pull,
    turned_positive,
    turned_pull,
    weight_sums,
    out,
    out_stride,
    SAME: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of the scores of a tile, into out[row, column] (any floating type, rows `out_stride` apart).

        w_ij e^{s_ij - shift} (row_share_i + column_share_j) - pull_i [j = positive_i]
            - turned_pull_j [i = turned_positive_j]

    Where `row_log` (`column_log`) is given it is taken from the exponent of that term: a sum kept as a
    logarithm. `weight_sums`[tile of rows, column] gets the sums of the first term over rows. Pointers to terms
    that do not exist are None.
    """
    tile_m, _, row, column = _place(pairs, BLOCK_M, BLOCK_N)
    rows, columns = row < pairs.n_rows, column < pairs.n_columns
    exponents = _exponents(x, keys, pairs, row, column, d, SAME, PRECISION, BLOCK_D)
    share = tl.load(row_share + row, mask=rows, other=0.0)[:, None]
    if row_log is None:
        if column_share is not None:
            share = share + tl.load(column_share + column, mask=columns, other=0.0)[None, :]
        gradient = tl.exp2(exponents) * share
    else:
        log2 = tl.load(row_log + row, mask=rows, other=0.0) * LOG2_E
        gradient = tl.exp2(exponents - log2[:, None]) * share
        if column_share is not None:
            share = tl.load(column_share + column, mask=columns, other=0.0)[None, :]
            log2 = tl.load(column_log + column, mask=columns, other=0.0) * LOG2_E
            gradient += tl.exp2(exponents - log2[None, :]) * share
    if weight_sums is not None:
        tl.store(weight_sums + tile_m * pairs.n_columns + column, tl.sum(gradient, 0), mask=columns)
    if pull is not None:
        of_row = tl.load(pairs.positive + row, mask=rows, other=-1)
        at = of_row[:, None] == (pairs.first_column + column)[None, :]
        gradient -= tl.where(at, tl.load(pull + row, mask=rows, other=0.0)[:, None], 0.0)
    if turned_pull is not None:
        of_column = tl.load(turned_positive + column, mask=columns, other=-1)
        at = of_column[None, :] == (pairs.first_row + row)[:, None]
        gradient -= tl.where(at, tl.load(turned_pull + column, mask=columns, other=0.0)[None, :], 0.0)
    place = row[:, None].to(tl.int64) * out_stride + column[None, :]
    tl.store(out + place, gradient.to(out.dtype.element_ty), mask=rows[:, None] & columns[None, :])
