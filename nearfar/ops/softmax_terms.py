"""What a kernel is asked for: log-sum-exps of the rows and columns of a matrix of scores, less single scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nearfar.ops.pair_rule import PairRule


class Group(NamedTuple):
    """Columns that every row meets.

    Attributes:
        keys: [M, d].
        rule: which pairs take part.
    """

    keys: Tensor
    rule: PairRule


@dataclass(frozen=True, eq=False)
class Terms:
    """The sum to compute, of scores s = x k^T over all groups of columns, with w as the rules say:

        sum_i row_i log( e^{own_i} + sum_j w_ij e^{s_ij} ) + sum_j column_j log sum_i w_ij e^{s_ij}
            - sum_i pull_i s_{i, positive_i} - sum_i row_i own_i

    Attributes:
        row: [N] weights of the rows.
        column: [M] weights of the columns of the first group; None: no such term.
        positive: [N] a column of the first group for each row; None: no such term.
        pull: [N] weights of those pairs; goes with `positive`.
        own: [N] one more score for each row; None: no such term. Not together with `positive` or `column`.
        bound: no score is above it.
    """

    row: Tensor
    column: Tensor | None = None
    positive: Tensor | None = None
    pull: Tensor | None = None
    own: Tensor | None = None
    bound: float = math.inf

    @property
    def rest(self) -> Tensor:
        """What a constant added to every score adds to the sum."""
        rest = self.row.sum()
        if self.column is not None:
            rest = rest + self.column.sum()
        if self.pull is not None:
            rest = rest - self.pull.sum()
        return rest if self.own is None else rest - self.row.sum()


class Gradients(NamedTuple):
    """Gradients of the sum, None where they are not wanted.

    Attributes:
        x: [N, d].
        own: [N].
        keys: of each group, [M, d].
        log_weights: of each group, of the logarithms of its rule's weights, [M].
    """

    x: Tensor | None
    own: Tensor | None
    keys: tuple[Tensor | None, ...]
    log_weights: tuple[Tensor | None, ...]

    @property
    def any(self) -> bool:
        """Whether one is wanted."""
        return any(one is not None for one in (self.x, self.own, *self.keys, *self.log_weights))


def exponent_limit(dtype: torch.dtype, terms: int) -> float:
    """Largest exponent of which `terms` exponentials can be added without overflow, with some room."""
    return math.log(torch.finfo(dtype).max) - math.log(max(terms, 1)) - 3


def smallest_sum(dtype: torch.dtype) -> float:
    """A sum of exponentials below this may have lost terms to underflow."""
    return torch.finfo(dtype).tiny * 1e8


class Passes(Protocol):
    """Sums in a first pass over the scores, gradients in a second."""

    def first(self) -> bool:
        """Sum. False if sums may have lost terms to underflow."""

    def second(self, wanted: Gradients) -> None:
        """Add the gradients to what is wanted."""

    def value(self) -> Tensor:
        """The sum, after the first pass."""


def in_passes(
    make: Callable[[float | None], Passes], bound: float, limit: float, wanted: Gradients
) -> Tensor:
    """The value of passes that take a constant from every score, or keep sums as logarithms where that loses terms.

    Args:
        make: the constant, or None for logarithms, to the passes.
        bound: no score is above it.
        limit: largest exponent that may be summed.
        wanted: where gradients go.
    """
    passes = make(max(0.0, bound - limit))
    if bound > 3 * limit or not passes.first():
        passes = make(None)
        passes.first()
    if wanted.any:
        passes.second(wanted)
    return passes.value()
