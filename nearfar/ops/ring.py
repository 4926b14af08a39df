"""InfoNCE of the joined batch of several processes, none of which ever holds the keys of all.

Blocks of keys go round a ring of processes, the next one travelling while the scores of this one are computed.
On a first lap every process sums the exponentials of its own rows; on a second it takes their gradient, and the
gradient of a block of keys goes behind the block, each process adding its part, until it arrives home complete.
Where the keys are compared with the queries too, the sums of a block's columns follow it on the first lap and
travel with it on the second. That is 8 N^2 d operations over all processes, with N rows in all, in either case.

Rings of key blocks: Liu, Zaharia, Abbeel. "Ring Attention with Blockwise Transformers for Near-Infinite Context."
ICLR 2024; for this loss: Cheng et al. "Breaking the Memory Barrier of Contrastive Loss via Tile-Based Strategy."
CVPR 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar.ops.kept_gradients import keep, times_upstream
from nearfar.ops.process_ring import FollowingSums, Ring
from nearfar.ops.products import add_products, scores
from nearfar.ops.ring_inputs import check_together, facts_of
from nearfar.ops.softmax_terms import exponent_limit, smallest_sum
from nearfar.ops.tiles import TILE, ranges


def ring_info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float | Tensor,
    symmetric: bool = False,
    unit: bool = True,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Loss of the rows of all processes, where row i of a process is near key i of that process, all others far.

        loss = 1/N sum_i ( log sum_j e^{s_ij} - s_ii ),    s = x k^T / temperature,    i, j over all processes

    It stands for `info_nce` of queries and keys that every process has gathered with gradient: the value is the
    same in all processes, and the *mean* over the processes of the gradients of shared parameters is that of one
    process with all rows. So the gradients of queries and keys are those of the loss times the number of
    processes, and that of the temperature is whole in each of them.

    All processes of the group must call it together, and call backward with one and the same upstream gradient.
    The gradients are computed with the value, and are all that is kept for the backward pass; second derivatives
    raise an error. Half precision is computed in float32.

    Args:
        queries: this process's rows, [b, d]; the numbers of rows may differ between processes, and be 0.
        keys: [b, d].
        temperature: above 0, the same in all processes; a tensor of one element receives its gradient.
        symmetric: mean of this loss and that of the keys against the queries.
        unit: whether rows and keys are scaled to length one first.
        group: the processes; None: all. Without processes that are joined, this one alone.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ArgumentError: in all processes, if in any of them a row is NaN, infinite, or zeros (`unit`), shapes,
            devices or types do not match or the temperature is not above 0; if widths, types, temperatures or
            flags differ between processes; if they have fewer than two rows in all.
    """
    ring = Ring(group, queries.device)
    own = facts_of(queries, keys, temperature, symmetric=symmetric, unit=unit, on_cpu_alone=ring.on_cpu_alone)
    everyones = [type(own)(*numbers) for numbers in ring.share(own)]
    check_together(everyones)
    longest = max(one.longest_query for one in everyones) * max(one.longest_key for one in everyones)
    sharpest = max(1 / one.temperature for one in everyones)
    problem = _Problem(
        ring,
        tuple(int(one.rows) for one in everyones),
        own.temperature,
        symmetric,
        sharpest if unit else sharpest * longest,
        any(one.wants_queries for one in everyones),
        any(one.wants_keys for one in everyones),
    )
    sides = [x if x.dtype == torch.float64 else x.float() for x in (queries, keys)]
    if unit:
        sides = [x / torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in sides]
    learned = temperature if isinstance(temperature, Tensor) else None
    value: Tensor = _RingInfoNCE.apply(problem, *sides, learned)
    return value


@dataclass(frozen=True)
class _Problem:
    """What all processes know alike: `counts` are their rows, `bound` is what no score exceeds."""

    ring: Ring
    counts: Sequence[int]
    temperature: float
    symmetric: bool
    bound: float
    want_queries: bool
    want_keys: bool

    @property
    def weight(self) -> float:
        """Of one row's, and one column's, log-sum-exp in the loss."""
        return (0.5 if self.symmetric else 1.0) / sum(self.counts)


class _RingInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: _Problem, queries: Tensor, keys: Tensor, tau: Tensor | None) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            value, d_queries, d_keys, d_log_tau = _evaluate(problem, queries, keys)
        for gradient in (d_queries, d_keys):
            if gradient is not None:
                # Parameters get the mean over the processes, which is to be the gradient of the loss.
                gradient *= problem.ring.size
        d_tau = None if tau is None else torch.full_like(tau, d_log_tau / problem.temperature)
        keep(ctx, (None, d_queries, d_keys, d_tau))
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return times_upstream(ctx, upstream)


def _evaluate(
    problem: _Problem, queries: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    """The loss, its gradients for this process's rows, and that for the logarithm of the temperature."""
    x = queries / problem.temperature
    limit = exponent_limit(x.dtype, 2 * sum(problem.counts))
    laps, value = None, 0.0
    if not problem.bound > 3 * limit:
        laps = _Laps(problem, x, keys, max(0.0, problem.bound - limit))
        value = laps.first()
    if laps is None or laps.lost_terms:
        laps = _Laps(problem, x, keys, None)
        value = laps.first()
    loss = torch.tensor(value, dtype=x.dtype, device=x.device)
    if not (problem.want_queries or problem.want_keys):
        return loss, None, None, 0.0
    d_x, d_keys = laps.second()
    d_log_tau = 0.0
    if d_x is not None:
        along = problem.ring.share([-float((x * d_x).sum())])
        d_log_tau = sum(part for (part,) in along)
        d_x /= problem.temperature
    return loss, d_x, d_keys, d_log_tau


class _Laps:
    """Both laps of one process; `shift` is taken from every score, None keeps sums as logarithms."""

    def __init__(self, problem: _Problem, x: Tensor, keys: Tensor, shift: float | None) -> None:
        self.problem, self.x, self.keys, self.shift = problem, x, keys, shift
        self.empty = -torch.inf if shift is None else 0.0
        self.of_rows = x.new_full((len(x),), self.empty)
        self.of_columns: Tensor | None = None
        self.space = x.new_empty(2, min(TILE, len(x)) * min(TILE, max(problem.counts)))
        self.lost_terms = False

    def _tiles(self, keys: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tiles of exponentials, or of scores where sums are kept as logarithms."""
        for rows in ranges(len(self.x), TILE):
            for columns in ranges(len(keys), TILE):
                row, column = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
                tile = scores(self.x[row], keys[column], self._place(0, len(rows), len(columns)))
                if self.shift is not None:
                    (tile.sub_(self.shift) if self.shift else tile).exp_()
                yield row, column, tile

    def _place(self, which: int, height: int, width: int) -> Tensor:
        return self.space[which, : height * width].view(height, width)

    def _add(self, totals: Tensor, tile: Tensor, dim: int) -> None:
        if self.shift is None:
            torch.logaddexp(totals, tile.logsumexp(dim), out=totals)
        else:
            totals += tile.sum(dim)

    def first(self) -> float:
        """Sum; the loss, and in `lost_terms` whether sums of any process may have lost some to underflow."""
        problem, ring, d = self.problem, self.problem.ring, self.x.shape[1]
        join = torch.logaddexp if self.shift is None else torch.add
        following = None
        if problem.symmetric:
            following = FollowingSums(ring, problem.counts, self.x, join, self.empty)
        for owner, block in ring.lap(self.keys.reshape(-1), [n * d for n in problem.counts]):
            of_columns = None if following is None else following.part(owner)
            for row, column, tile in self._tiles(block.view(-1, d)):
                self._add(self.of_rows[row], tile, 1)
                if of_columns is not None:
                    self._add(of_columns[column], tile, 0)
            if following is not None:
                following.pass_on(owner)
        self.of_columns = None if following is None else following.home()
        return self._value()

    def _value(self) -> float:
        problem, shift = self.problem, self.shift
        pulled = float((self.x * self.keys).sum()) / sum(problem.counts)
        value, least = -pulled, math.inf
        for totals in (self.of_rows, self.of_columns):
            if totals is None or not len(totals):
                continue
            logs = totals if shift is None else totals.log()
            value += problem.weight * (float(logs.sum()) + (shift or 0.0) * len(totals))
            least = min(least, float(totals.amin()))
        everyones = problem.ring.share([value, least])
        if shift is not None:
            self.lost_terms = any(least < smallest_sum(self.x.dtype) for _, least in everyones)
        return sum(value for value, _ in everyones)

    def second(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients for `x` and for this process's keys, where they are wanted."""
        problem, ring, (n, d) = self.problem, self.problem.ring, self.x.shape
        d_x = torch.zeros_like(self.x) if problem.want_queries else None
        following = None
        if problem.want_keys:
            following = FollowingSums(ring, [n * d for n in problem.counts], self.x, torch.add, 0.0)
        of_rows, own = self._shares(self.of_rows), self.keys.reshape(-1)
        if self.of_columns is not None:
            own = torch.cat([own, self._shares(self.of_columns)])
        width = d + problem.symmetric
        for owner, block in ring.lap(own, [n * width for n in problem.counts]):
            keys, shares = block.split([problem.counts[owner] * d, problem.counts[owner] * (width - d)])
            keys = keys.view(-1, d)
            d_keys = None if following is None else following.part(owner).view(-1, d)
            for row, column, tile in self._tiles(keys):
                g = self._d_scores(tile, of_rows[row], shares[column] if problem.symmetric else None)
                of_rows_here = None if d_x is None else d_x[row]
                of_keys_here = None if d_keys is None else d_keys[column]
                add_products(g, self.x[row], keys[column], of_rows_here, of_keys_here)
            if following is not None:
                following.pass_on(owner)
        pull = -1 / sum(problem.counts)
        if d_x is not None:
            d_x.add_(self.keys, alpha=pull)
        return d_x, None if following is None else following.home().view(n, d).add_(self.x, alpha=pull)

    def _shares(self, totals: Tensor) -> Tensor:
        """What a sum divides, weight / sum; of sums that are kept as logarithms the logarithm of its inverse."""
        weight = self.problem.weight
        return totals - math.log(weight) if self.shift is None else weight / totals

    def _d_scores(self, tile: Tensor, row: Tensor, column: Tensor | None) -> Tensor:
        """Gradient of the loss for the scores of a tile, of which the tile itself is overwritten."""
        other = self._place(1, *tile.shape)
        if self.shift is not None:
            return tile.mul_(row[:, None] if column is None else torch.add(row[:, None], column, out=other))
        if column is not None:
            torch.sub(tile, column, out=other).exp_()
        tile.sub_(row[:, None]).exp_()
        return tile if column is None else tile.add_(other)
