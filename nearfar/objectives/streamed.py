"""InfoNCE on the streaming kernel: the forms of it that are log-sum-exps less single scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from nearfar.geometry import ScoreName, euclidean_factors, unit_rows
from nearfar.objectives.adjustments import KeyLogWeights
from nearfar.objectives.inputs import OnNoPositive, check_all_found
from nearfar.objectives.nearness import Nothing, Streamed
from nearfar.objectives.pairing import Pairing
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.softmax_contrast import Columns, softmax_contrast
from nearfar.ops.softmax_terms import Terms


@dataclass(frozen=True, eq=False)
class Form:
    """A loss that the kernel can compute.

    Attributes:
        near: who is near among the keys.
        rule: which keys are in the denominators.
        log_weights: of the keys.
        extra_rule: the same of the extra keys, none of which is near.
        extra_log_weights: of the extra keys.
    """

    near: Streamed
    rule: PairRule
    log_weights: Tensor | None
    extra_rule: PairRule
    extra_log_weights: Tensor | None

    @property
    def is_symmetric(self) -> bool:
        """Whether queries and keys may change places."""
        pairs = [*self.rule.same, *([] if self.near.labels is None else [self.near.labels])]
        return self.log_weights is None and all(of_rows is of_columns for of_rows, of_columns in pairs)


def streamed_form(
    n_rows: int,
    pairing: Pairing,
    extra_pairing: Pairing | None,
    device: torch.device,
    *,
    symmetric: bool,
    only_one_near: bool,
) -> Form | None:
    """The form of a loss, or None if it must be evaluated row by row.

    Args:
        n_rows: B.
        pairing: of queries and keys.
        extra_pairing: of queries and extra keys; None: there are none.
        device: of the queries.
        symmetric: whether keys are compared with the queries as well.
        only_one_near: whether the formula is the kernel's only for rows with a single near key.
    """
    extra_pairing = extra_pairing or Pairing.none()
    near = pairing.nearness.streamed(n_rows, device)
    first, extra = streamed_rule(pairing, device), streamed_rule(extra_pairing, device)
    if near is None or first is None or extra is None or not isinstance(extra_pairing.nearness, Nothing):
        return None
    if near.index is None and near.labels is None:
        return None
    rule, log_weights = first
    several = near.labels is not None or (symmetric and not near.one_to_one)
    if (only_one_near and several) or (symmetric and log_weights is not None):
        return None
    if near.ignores_others and (symmetric or pairing.adjustments):
        return None
    return Form(near, replace(rule, skip_diagonal=near.skips_self, near=near.labels), log_weights, *extra)


def streamed_rule(pairing: Pairing, device: torch.device) -> tuple[PairRule, Tensor | None] | None:
    """Which pairs are in the denominators, and the log-weights of keys; None if that needs to be asked by tiles."""
    if pairing.rank is not None or pairing.turned:
        return None
    rule, log_weights = PairRule(), None
    for adjustment in pairing.adjustments:
        if isinstance(adjustment, KeyLogWeights):
            more = adjustment.log_weights.to(device)
            log_weights = more if log_weights is None else log_weights + more
            continue
        changed = adjustment.onto(rule, device)
        if changed is None:
            return None
        rule = changed
    return rule, log_weights


def streamed_loss(
    form: Form,
    queries: Tensor,
    keys: Tensor,
    extra_keys: Tensor | None,
    *,
    temperature: float | Tensor,
    score: ScoreName,
    symmetric: bool,
    reduction: Literal["mean", "sum"],
    on_no_positive: OnNoPositive,
) -> Tensor:
    """The loss; not finite where an input is not, or where a query or key has an empty denominator.

    Args:
        form: as `streamed_form` found it.
        queries: [B, d].
        keys: [M, d].
        extra_keys: [E, d].
        temperature: above 0.
        score: cosine, dot or euclidean.
        symmetric: the mean of both directions.
        reduction: over the rows that have a near key.
        on_no_positive: whether others are refused or left out.

    Raises:
        ArgumentError: a row has no near key.
    """
    near, n_keys = form.near, len(keys)
    per_row, per_key = _numbers_of_near(near, len(queries), n_keys)
    row = _weights(per_row, queries, len(queries), reduction, on_no_positive, ("query", "key"))
    column = None
    if symmetric:
        row = row / 2
        column = _weights(per_key, queries, n_keys, reduction, on_no_positive, ("key", "query")) / 2
    terms = Terms(row, column)
    itself = keys is queries and column is None and extra_keys is None and form.is_symmetric
    unit, sides = score == "cosine", [keys] if extra_keys is None else [keys, extra_keys]
    if unit and (near.labels is not None or near.ignores_others):
        unit, terms = False, replace(terms, bound=1 / float(torch.as_tensor(temperature).detach()))
        queries = unit_rows(queries, "queries")
        sides = [unit_rows(s, name) for s, name in zip(sides, ("keys", "extra_keys"), strict=False)]
    if score == "euclidean":
        terms = replace(terms, bound=0.0)
        queries, sides = euclidean_factors(queries, sides)
    if near.ignores_others:
        own = (queries * sides[0]).sum(1) / temperature
        columns = [Columns(sides[1], form.extra_rule, form.extra_log_weights)]
        return softmax_contrast(queries, columns, replace(terms, own=own), temperature=temperature, unit=unit)
    if near.index is not None:
        pull = row if column is None else row + _shared(column, per_key)[near.index]
        terms = replace(terms, positive=near.index, pull=pull)
    # The kernel takes one tensor on both sides for a set against itself.
    columns = [Columns(queries if itself else sides[0].view_as(sides[0]), form.rule, form.log_weights)]
    if extra_keys is not None:
        columns.append(Columns(sides[1], form.extra_rule, form.extra_log_weights))
    loss = softmax_contrast(queries, columns, terms, temperature=temperature, unit=unit)
    if near.labels is None:
        return loss
    skip = near.skips_self
    pulled = sum_over_labels(near.labels, queries, sides[0], _shared(row, per_row), skips_self=skip)
    if column is not None:
        weights = _shared(column, per_key)
        pulled = pulled + sum_over_labels(near.labels[::-1], sides[0], queries, weights, skips_self=skip)
    return loss - pulled / temperature


def _numbers_of_near(near: Streamed, n_rows: int, n_keys: int) -> tuple[Tensor | None, Tensor | None]:
    """Near keys of each query [B] and near queries of each key [M]; None: one each."""
    if near.labels is None:
        assert near.index is not None
        return None, None if near.one_to_one else torch.bincount(near.index, minlength=n_keys)
    both, place = torch.cat(near.labels).unique(return_inverse=True)
    rows, keys = place.split([n_rows, n_keys])
    counts = [torch.bincount(part, minlength=len(both)) - int(near.skips_self) for part in (keys, rows)]
    return counts[0][rows], counts[1][keys]


def _weights(
    near: Tensor | None,
    like: Tensor,
    n: int,
    reduction: Literal["mean", "sum"],
    on_no_positive: OnNoPositive,
    names: tuple[str, str],
) -> Tensor:
    """Weight of each row's loss in the reduced one: [n]."""
    dtype = like.dtype if like.dtype == torch.float64 else torch.float32
    if near is None:
        return torch.full((n,), 1 / n if reduction == "mean" else 1.0, dtype=dtype, device=like.device)
    found = near > 0
    check_all_found(found, names, on_no_positive)
    weights = found.to(dtype)
    return weights if reduction == "sum" else weights / weights.sum().clamp(min=1)


def _shared(weights: Tensor, near: Tensor | None) -> Tensor:
    """The weight of a row, divided among its near keys."""
    return weights if near is None else weights / near.clamp(min=1)


def sum_over_labels(
    labels: tuple[Tensor, Tensor], x: Tensor, keys: Tensor, weights: Tensor, *, skips_self: bool
) -> Tensor:
    """sum_i weights_i sum_j x_i . k_j over pairs of one label: inner products of the sums over each label.

    Args:
        labels: of rows [N] and of keys [M].
        x: [N, d].
        keys: [M, d].
        weights: [N].
        skips_self: leave out the pairs (i, i).
    """
    both, place = torch.cat(labels).unique(return_inverse=True)
    of_rows, of_keys = place.split([len(x), len(keys)])
    weighted = x * weights[:, None]
    nothing = x.new_zeros(len(both), x.shape[1])
    pulled = (nothing.index_add(0, of_rows, weighted) * nothing.index_add(0, of_keys, keys)).sum()
    return pulled - (weighted * keys).sum() if skips_self else pulled
