"""Softmax sums on a GPU: Triton kernels for the scores, PyTorch's matrix products for the gradients.

The matrix is cut into blocks. A first pass sums the exponentials of each block, by rows and columns at once; a
second computes them again and writes the gradients of the block's scores, in the type of the inputs, into one
buffer that all blocks share; two matrix products then add what it means for the rows and for the columns. With d
the width, and a multiply-add as two operations: 2 N M d for the sums and 6 N M d for the gradients, whatever d is,
half of both for rows against themselves. (A kernel that keeps the gradient of its rows in registers writes no
buffer, but must compute all scores again for each direction, and again for each piece of d that fits: 10 N M d up
to a width of 256, 18 N M d at 768.) Sums of tiles are added in a fixed order and nothing atomically, so that equal
inputs give equal bits on one device.
"""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nearfar.ops.pair_rule import PairRule
from nearfar.ops.softmax_terms import Gradients, Group, Terms, exponent_limit, in_passes, smallest_sum
from nearfar.ops.tiles import ranges

if TYPE_CHECKING:
    from nearfar.ops.triton_kernels import Pairs

TILE = 1 << 14
"""Rows and columns of a block: its gradients are 512 MB in half precision, 1 GB in float32."""
LARGE = 1 << 24
"""Matrices of at least so many cells are tuned for apart from smaller ones."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def available(x: Tensor) -> bool:
    """Whether `softmax_sums_triton` can compute with `x`: on a GPU, or anywhere with Triton's interpreter.

    Warns once where only the installation of Triton is missing.
    """
    if x.dtype not in TYPES or not (x.is_cuda or _interpreted()):
        return False
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    found = importlib.util.find_spec("triton") is not None and hasattr(torch.ops.aten.mm, "dtype")
    if not found:
        _warn()
    return found


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _warn() -> None:
    warnings.warn(
        "softmax losses on this GPU run on plain PyTorch; install nearfar[gpu] for its faster kernels",
        stacklevel=4,
    )


def softmax_sums_triton(x: Tensor, groups: Sequence[Group], terms: Terms, wanted: Gradients) -> Tensor:
    """The sum of `terms`; its gradients are added to what is wanted.

    Products of float32 are as exact as `torch.set_float32_matmul_precision` says ("highest": full precision;
    else TF32), sums are always in float32. The gradients of half precision scores are rounded to it before they
    are multiplied with rows and keys.

    Args:
        x: [N, d], float32, bfloat16 or float16.
        groups: columns, of the same type and device.
        terms: what to sum, in float32.
        wanted: float32 zeros of the shapes of the gradients. With `x` against itself (the keys of the only group
            are `x`, and its rule is symmetric), `wanted.x` gets all of it.

    Returns:
        The value: a float32 scalar, not finite if an input is not, or if a row (column) has no pair.
    """
    limit = exponent_limit(torch.float32, len(x) + sum(len(group.keys) for group in groups))
    return in_passes(lambda shift: _Passes(x, groups, terms, shift), terms.bound, limit, wanted)


class _Block(NamedTuple):
    group: int
    rows: slice
    columns: slice
    mirrored: bool
    """Whether the block stands for its mirror image too, in a matrix that is its own transpose."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class _Side(NamedTuple):
    """Of a group: columns as the kernels read them, and which pairs take part.

    Attributes:
        keys: [M, d].
        bias: [M] log2 of the weights, less the shift.
        ids: those of `same`, and of `near` in the last line: [P, N] of rows, [P, M] of columns; None: there are none.
        rule: the rule.
    """

    keys: Tensor
    bias: Tensor
    ids: tuple[Tensor, Tensor] | None
    rule: PairRule


class _Passes:
    """Both passes; `shift` is taken from every score, None keeps sums as logarithms."""

    def __init__(self, x: Tensor, groups: Sequence[Group], terms: Terms, shift: float | None) -> None:
        self.x, self.terms, self.shift = x.contiguous(), terms, shift
        self.itself = len(groups) == 1 and groups[0].keys is x
        self.sides = [_side(group, shift or 0.0) for group in groups]
        self.positive = None if terms.positive is None else terms.positive.to(torch.int32)
        self.of_rows = self._empty(len(x))
        self.of_columns = self.of_rows if self.itself else self._empty(len(groups[0].keys))

    def _empty(self, n: int) -> Tensor:
        return self.x.new_full((n,), -torch.inf if self.shift is None else 0.0, dtype=torch.float32)

    def _blocks(self) -> Iterator[_Block]:
        side = TILE // 2 if self.itself else TILE
        for rows in ranges(len(self.x), side):
            for group, of in enumerate(self.sides):
                for columns in ranges(len(of.keys), side):
                    if self.itself and columns.start < rows.start:
                        continue
                    mirrored = self.itself and columns.start > rows.start
                    at = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
                    yield _Block(group, *at, mirrored)

    def _launch(self, kernel: Any, block: _Block, **arguments: Any) -> tuple[int, int]:
        """Start a kernel on a block: tiles of rows and of columns that it was cut into."""
        import triton

        side, n, m = self.sides[block.group], *block.shape
        exact = torch.get_float32_matmul_precision() == "highest"
        kernel[lambda sizes: (triton.cdiv(n, sizes["BLOCK_M"]) * triton.cdiv(m, sizes["BLOCK_N"]),)](
            x=self.x[block.rows],
            keys=side.keys[block.columns],
            pairs=self._pairs(block),
            d=self.x.shape[1],
            bucket=2 * self.x.shape[1].bit_length() + (len(self.x) * len(side.keys) >= LARGE),
            SAME=len(side.rule.same),
            PRECISION="ieee" if exact else "tf32",
            enable_fp_fusion=True,  # said, because what Triton takes otherwise depends on its version
            **arguments,
        )
        sizes = kernel.best_config.kwargs
        return triton.cdiv(n, sizes["BLOCK_M"]), triton.cdiv(m, sizes["BLOCK_N"])

    def _pairs(self, block: _Block) -> Pairs:
        from nearfar.ops.triton_kernels import Pairs

        side, positive = self.sides[block.group], self.positive if block.group == 0 else None
        rule, (of_rows, of_columns) = side.rule, side.ids or (None, None)
        diagonal = 0.0 if rule.skip_diagonal else rule.diagonal
        near = None if rule.near is None else -1
        return Pairs(
            *block.shape,
            first_row=block.rows.start,
            first_column=block.columns.start,
            bias=side.bias[block.columns],
            row_ids=None if of_rows is None else of_rows[:, block.rows],
            column_ids=None if of_columns is None else of_columns[:, block.columns],
            ids_rows=len(self.x),
            ids_columns=len(side.keys),
            near_rows=None if near is None or of_rows is None else of_rows[near, block.rows],
            near_columns=None if near is None or of_columns is None else of_columns[near, block.columns],
            positive=None if positive is None else positive[block.rows],
            log2_diagonal=None if diagonal == 1.0 else math.log2(diagonal) if diagonal > 0 else -math.inf,
        )

    def _partial(self, n: int, of: int) -> Tensor:
        """Room for sums [tiles of n, of]."""
        from nearfar.ops.triton_kernels import SMALLEST_TILE

        return self.x.new_empty(-(-n // SMALLEST_TILE), of, dtype=torch.float32)

    def first(self) -> bool:
        """Sum. False if sums may have lost terms, or overflowed."""
        from nearfar.ops.triton_kernels import sums

        logs = self.shift is None
        for block in self._blocks():
            n, m = block.shape
            both = block.mirrored or (block.group == 0 and self.terms.column is not None and not self.itself)
            of_rows, of_columns = self._partial(m, n), self._partial(n, m) if both else None
            tiles_m, tiles_n = self._launch(sums, block, row_sums=of_rows, column_sums=of_columns, LOGS=logs)
            self._total(self.of_rows[block.rows], of_rows[:tiles_n])
            if of_columns is not None:
                self._total(self.of_columns[block.columns], of_columns[:tiles_m])
        own = self._own()
        if own is not None:
            self._total(self.of_rows, own[None] if logs else own.exp()[None])
        if logs:
            return True
        totals = [self.of_rows] if self.terms.column is None else [self.of_rows, self.of_columns]
        extremes = torch.stack([end for total in totals for end in total.aminmax()]).tolist()
        return not (min(extremes) < smallest_sum(torch.float32) or max(extremes) == math.inf)

    def _total(self, totals: Tensor, partial: Tensor) -> None:
        if self.shift is None:
            torch.logaddexp(totals, partial.logsumexp(0), out=totals)
        else:
            totals += partial.sum(0)

    def _own(self) -> Tensor | None:
        own = self.terms.own
        return own - self.shift if own is not None and self.shift else own

    def value(self) -> Tensor:
        """The sum, after the first pass."""
        terms, own = self.terms, self._own()
        value = terms.row @ self._log(self.of_rows)
        if terms.column is not None:
            value = value + terms.column @ self._log(self.of_columns)
        if own is not None:
            value = value - terms.row @ own
        if terms.positive is not None and terms.pull is not None:
            value = value - terms.pull @ self._pulled(terms.positive)
        return value + terms.rest * self.shift if self.shift else value

    def _log(self, totals: Tensor) -> Tensor:
        return totals if self.shift is None else totals.log()

    def _pulled(self, positive: Tensor) -> Tensor:
        """Scores of the positive pairs, less the shift: [N]."""
        keys = self.sides[0].keys
        scores = [
            torch.linalg.vecdot(self.x[at].float(), keys[positive[at]].float())
            for at in (slice(rows.start, rows.stop) for rows in ranges(len(self.x), TILE))
        ]
        return torch.cat(scores) - (self.shift or 0.0)

    def second(self, wanted: Gradients) -> None:
        """Take the gradients."""
        from nearfar.ops.triton_kernels import score_gradients

        terms, own = self.terms, self._own()
        scale, positive = self._scale(), self.positive if self.itself else None
        row, pull = scale * terms.row, None if terms.pull is None else scale * terms.pull
        column = None if terms.column is None else scale * terms.column
        if self.itself:
            row = column = row if column is None else row + column
        if wanted.own is not None and own is not None:
            wanted.own.add_(terms.row * ((own - self._log(self.of_rows)).exp() - 1))
        if self.shift is not None:
            row = row / self.of_rows
            column = None if column is None else column / self.of_columns
        height, width = (max(size) for size in zip(*(block.shape for block in self._blocks()), strict=True))
        space = self.x.new_empty(height, -(-width // 8) * 8)  # rows 16 bytes apart, for the tensor cores
        for block in self._blocks():
            first = block.group == 0
            (n, m), d_weights = block.shape, wanted.log_weights[block.group]
            of_weights = None if d_weights is None else self._partial(n, m)
            tiles_m, _ = self._launch(
                score_gradients,
                block,
                row_share=row[block.rows],
                row_log=self.of_rows[block.rows] if self.shift is None else None,
                column_share=column[block.columns] if column is not None and first else None,
                column_log=self.of_columns[block.columns] if self.shift is None and first else None,
                pull=pull[block.rows] if pull is not None and first else None,
                turned_positive=positive[block.columns] if positive is not None else None,
                turned_pull=pull[block.columns] if pull is not None and self.itself else None,
                weight_sums=of_weights,
                out=space,
                out_stride=space.stride(0),
            )
            if d_weights is not None and of_weights is not None:
                d_weights[block.columns] += of_weights[:tiles_m].sum(0) / scale
            self._spread(block, space[:n, :m], wanted, 1 / scale)

    def _spread(self, block: _Block, g: Tensor, wanted: Gradients, factor: float) -> None:
        """Add what gradients of scores mean for rows and columns."""
        keys, d_keys = self.sides[block.group].keys, wanted.keys[block.group]
        if self.itself:
            d_keys = wanted.x if block.mirrored else None
        if wanted.x is not None:
            _add_product(wanted.x[block.rows], g, keys[block.columns], factor)
        if d_keys is not None:
            _add_product(d_keys[block.columns], g.mT, self.x[block.rows], factor)

    def _scale(self) -> float:
        """A power of two that brings gradients of scores near the largest number of float16, 1 for other types.

        None of them is larger than the largest weights of a row, a column and a pull together; what is lost to
        underflow then is less than 2^-38 of that.
        """
        if self.x.dtype != torch.float16:
            return 1.0
        weights = (self.terms.row, self.terms.column, self.terms.pull)
        largest = sum(float(w.abs().amax()) for w in weights if w is not None) * (2 if self.itself else 1)
        return 2.0 ** math.floor(15 - math.log2(largest)) if 0 < largest < math.inf else 1.0


def _side(group: Group, shift: float) -> _Side:
    keys, rule = group.keys.contiguous(), group.rule
    bias = keys.new_full((len(keys),), -shift / math.log(2), dtype=torch.float32)
    if rule.weights is not None:
        bias += rule.weights.float().log2()
    pairs = list(rule.same) if rule.near is None else [*rule.same, rule.near]
    if not rule.same:
        return _Side(keys, bias, None, rule)
    # Ids of any type become small integers, which the kernels compare.
    ids = [torch.cat(pair).unique(return_inverse=True)[1].to(torch.int32) for pair in pairs]
    row_ids, column_ids = torch.stack(ids).split([len(pairs[0][0]), len(keys)], dim=1)
    return _Side(keys, bias, (row_ids.contiguous(), column_ids.contiguous()), rule)


def _add_product(out: Tensor, a: Tensor, b: Tensor, factor: float) -> None:
    """out += factor a b, in float32 whatever the type of a and b."""
    if a.is_cuda and a.dtype != torch.float32:
        out.add_(torch.mm(a, b, out_dtype=torch.float32), alpha=factor)
    else:
        out.addmm_(a.float(), b.float(), alpha=factor)
