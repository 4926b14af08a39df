"""From the scores of a query and what a pairing says of them to its loss: the softmax under `info_nce`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.objectives.inputs import check_temperature
from nearfar.objectives.pairing import Pairing
from nearfar.objectives.tile import Block
from nearfar.ops.row_chunks import over_row_chunks

Many = Literal["mean", "sum_inside"]
Denominator = Literal["all", "own"]


class RowLosses(NamedTuple):
    """Losses of N rows.

    Attributes:
        loss: [N], 0 where a row has no near key.
        found: [N], True where it has one.
    """

    loss: Tensor
    found: Tensor


@dataclass(frozen=True)
class Keys:
    """A group of keys that every query meets.

    Attributes:
        n: keys (columns) per query.
        scores: rows -> scores [r, n], before the temperature.
        pairing: of the queries with these keys.
    """

    n: int
    scores: Callable[[range], Tensor]
    pairing: Pairing


@dataclass(frozen=True)
class Softmax:
    """How scores become losses.

    Attributes:
        temperature: divides the scores; a number or a tensor of one element.
        many: several positives outside ("mean") or inside the logarithm ("sum_inside").
        denominator: over all keys, or over the own positive and the far keys ("own").
    """

    temperature: float | Tensor
    many: Many
    denominator: Denominator

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.many not in ("mean", "sum_inside"):
            raise ArgumentError(f"many must be 'mean' or 'sum_inside', got {self.many!r}")
        if self.denominator not in ("all", "own"):
            raise ArgumentError(f"denominator must be 'all' or 'own', got {self.denominator!r}")

    def losses(self, n_rows: int, groups: Sequence[Keys]) -> RowLosses:
        """The losses of all queries over the keys of all groups, in chunks where the matrix is large."""
        divide = all(group.pairing.nearness.divides for group in groups)

        def of_rows(rows: range) -> tuple[Tensor, ...]:
            scores = [_checked(group.scores(rows), len(rows), group.n) for group in groups]
            pairs = zip(groups, scores, strict=True)
            block = Block.beside([group.pairing.rows_block(rows, n_rows, found) for group, found in pairs])
            return self._of_block(scores[0] if len(scores) == 1 else torch.cat(scores, dim=1), block, divide)

        return RowLosses(*over_row_chunks(of_rows, n_rows, sum(group.n for group in groups)))

    def _of_block(self, scores: Tensor, block: Block, divide: bool) -> RowLosses:
        temperature = self.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature.reshape(()).to(scores)
        scores = _shifted(scores / temperature, block)
        total = block.target.sum(dim=1)
        weighted = scores if block.log_weight is None else scores + block.log_weight
        if self.many == "sum_inside":
            log_denominator, present = _log_sum_exp(weighted)
            loss = log_denominator - _log_sum_exp(scores + block.target.log())[0]
        elif self.denominator == "all":
            log_denominator, present = _log_sum_exp(weighted)
            loss = total * log_denominator - (block.target * scores).sum(dim=1)
        else:
            log_far, present = _log_sum_exp(weighted.masked_fill(~block.far, -torch.inf))
            own = torch.where(block.target > 0, weighted, log_far[:, None])
            each = torch.logaddexp(own, log_far[:, None]) - scores
            loss = (block.target * each).sum(dim=1)
        if divide and self.many == "mean":
            loss = loss / total.where(total > 0, 1)
        found = total > 0
        return RowLosses(loss.where(found & present, 0), found)


def _checked(scores: Tensor, n_rows: int, n_columns: int) -> Tensor:
    if scores.shape != (n_rows, n_columns):
        expected = f"{n_rows} queries x {n_columns} keys"
        raise ArgumentError(f"the score must give {expected}, got shape {tuple(scores.shape)}")
    return scores


def _shifted(scores: Tensor, block: Block) -> Tensor:
    """Scores minus their largest, row by row: the loss is the same, its rounding error far smaller."""
    seen = scores.detach()
    if block.log_weight is not None:
        seen = seen.masked_fill((block.log_weight == -torch.inf) & (block.target == 0), -torch.inf)
    largest = seen.amax(dim=1, keepdim=True)
    return scores - largest.where(largest > -torch.inf, 0)


def _log_sum_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Row-wise, and whether a row holds anything: one that does not gives 0 without gradient, not NaN."""
    present = (x > -torch.inf).any(dim=1)
    return torch.logsumexp(x.masked_fill(~present[:, None], 0), dim=1).where(present, 0), present
