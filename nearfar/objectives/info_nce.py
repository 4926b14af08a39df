"""InfoNCE and all its relatives: one function, with a `Pairing` that says who is near."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES, Score, ScoreName, at_least_float32, dot, finite_rows, unit_rows
from nearfar.objectives.inputs import (
    OnNoPositive,
    check_alike,
    check_all_found,
    check_extra_keys,
    check_one_width,
)
from nearfar.objectives.joined import own_rows
from nearfar.objectives.pairing import Pairing
from nearfar.objectives.row_loss import Denominator, Keys, Many, RowLosses, Softmax
from nearfar.objectives.streamed import streamed_form, streamed_loss
from nearfar.objectives.textbook import is_small, textbook_loss
from nearfar.ops.ring import ring_info_nce
from nearfar.ops.row_chunks import fits

Reduction = Literal["mean", "none", "sum"]


def info_nce(
    queries: Tensor,
    keys: Tensor,
    pairing: Pairing | None = None,
    *,
    temperature: float | Tensor,
    symmetric: bool = False,
    extra_keys: Tensor | None = None,
    extra_pairing: Pairing | None = None,
    score: ScoreName | Score = "cosine",
    many: Many = "mean",
    denominator: Denominator = "all",
    reduction: Reduction = "mean",
    on_no_positive: OnNoPositive = "error",
) -> Tensor:
    """Contrastive loss of queries against keys.

        loss_i = - sum_j t_ij log( e^{s_ij} / sum_k w_ik e^{s_ik} ) / sum_j t_ij        many="mean"
        loss_i = - log( sum_j t_ij e^{s_ij} / sum_k w_ik e^{s_ik} )                     many="sum_inside"

    with s = score / temperature, t the targets and w the weights of the pairing (w = 0 where ignored).
    With denominator="own" the sum over k holds the positive j itself and the far keys, no other positive;
    with "sum_inside" all positives are own ones, and it makes no difference. An ignored pair has exactly zero
    gradient. Memory is linear in B and M; the forms that the streaming kernel computes (`Pairing.diagonal`,
    `twins`, `index`, `same`, with ignored ids and weights of keys, under a named score, reduced) keep their
    gradients alone for the backward pass and have no second derivatives.

    van den Oord et al. "Representation Learning with Contrastive Predictive Coding." 2018 (one positive);
    Khosla et al. "Supervised Contrastive Learning." NeurIPS 2020, eq. 2 (mean) and 3 (sum inside).

    Args:
        queries: [B, d]. Half precision is computed in float32; float64 stays. For a callable score, [B, ...].
        keys: [M, d].
        pairing: of queries and keys; None: key i is near query i, the others far.
        temperature: above 0; a tensor of one element receives its gradient.
        symmetric: mean of this loss and that of the keys against the queries (without extra keys).
        extra_keys: more keys for the queries, far unless `extra_pairing` says otherwise: [E, d] shared, or
            [B, E, d] where each query has its own.
        extra_pairing: of queries and extra keys; None: `Pairing.none()`.
        score: name, or a function of (rows [r, d], rows [c, d]) to [r, c] that treats pairs independently.
        many: several positives averaged outside, or summed inside the logarithm.
        denominator: over all keys, or without a positive's fellow positives.
        reduction: "mean" over the rows that have a positive, "sum", or "none": [B].
        on_no_positive: "error", or "skip" to leave out a row without a positive (0 under "none").

    Raises:
        ArgumentError: rows are NaN, infinite, or zeros (cosine); shapes, devices or types differ; the pairing
            does not fit; the temperature is not above 0; a row has no positive, or only one key to choose.
    """
    tensors = {"queries": queries, "keys": keys} | ({} if extra_keys is None else {"extra_keys": extra_keys})
    check_alike(tensors)
    check_one_width(queries, keys)
    compare = _compare(score)
    softmax = Softmax(temperature, many, denominator)
    _check_reduction(reduction, on_no_positive)
    pairing, n_rows, n_keys = pairing or Pairing.diagonal(), len(queries), len(keys)
    if extra_keys is not None:
        check_extra_keys(extra_keys, queries)
        extra_pairing = extra_pairing or Pairing.none()
    elif extra_pairing is not None:
        raise ArgumentError("extra_pairing is given without extra_keys")
    n_extra = 0 if extra_keys is None else extra_keys.shape[-queries.ndim]
    _check_pairings(n_rows, [(pairing, n_keys), (extra_pairing, n_extra)], symmetric, reduction)
    loss: Tensor | None = None
    if callable(score) or reduction == "none":
        pass
    elif (
        extra_keys is None
        and pairing.is_plain_diagonal
        and is_small(n_rows * n_keys, symmetric, queries.device)
    ):
        loss = textbook_loss(queries, keys, temperature, score, symmetric, reduction)
    elif (
        extra_keys is None
        and pairing.is_plain_diagonal
        and score in ("cosine", "dot")
        and reduction == "mean"
        and (own := own_rows(n_rows)) is not None
    ):
        unit = score == "cosine"
        loss = ring_info_nce(queries[own], keys[own], temperature=temperature, symmetric=symmetric, unit=unit)
    elif extra_keys is None or extra_keys.ndim == 2:
        only_one_near = many != "mean" or denominator != "all"
        form = streamed_form(
            n_rows, pairing, extra_pairing, queries.device, symmetric=symmetric, only_one_near=only_one_near
        )
        if form is not None:
            loss = streamed_loss(
                form,
                queries,
                keys,
                extra_keys,
                temperature=temperature,
                score=score,
                symmetric=symmetric,
                reduction=reduction,
                on_no_positive=on_no_positive,
            )
    if loss is not None and math.isfinite(loss.detach().item()):
        return loss
    # Otherwise a row is not finite, which is refused below, or has nothing to be compared with.
    queries, keys = (_prepared(tensors[name], score, name) for name in ("queries", "keys"))
    forward, backward = _similarities(queries, keys, compare)
    groups = [Keys(n_keys, forward, pairing)]
    if extra_keys is not None and extra_pairing is not None:
        extra = _prepared(extra_keys, score, "extra_keys")
        rows_of = _against_extra(queries, extra, compare, batched=not callable(score))
        groups.append(Keys(n_extra, rows_of, extra_pairing))
    return _contrast(softmax, groups, n_rows, backward if symmetric else None, reduction, on_no_positive)


def info_nce_from_scores(
    scores: Tensor,
    pairing: Pairing | None = None,
    *,
    temperature: float | Tensor,
    symmetric: bool = False,
    extra_scores: Tensor | None = None,
    extra_pairing: Pairing | None = None,
    many: Many = "mean",
    denominator: Denominator = "all",
    reduction: Reduction = "mean",
    on_no_positive: OnNoPositive = "error",
) -> Tensor:
    """`info_nce` where the scores exist already (higher is nearer, not yet divided by the temperature).

    Args:
        scores: of queries and keys, [B, M].
        pairing: as in `info_nce`.
        temperature: as in `info_nce`.
        symmetric: as in `info_nce`; the scores serve both directions.
        extra_scores: of queries and extra keys, [B, E].
        extra_pairing: as in `info_nce`.
        many: as in `info_nce`.
        denominator: as in `info_nce`.
        reduction: as in `info_nce`.
        on_no_positive: as in `info_nce`.

    Raises:
        ArgumentError: as `info_nce`.
    """
    tensors = {"scores": scores} | ({} if extra_scores is None else {"extra_scores": extra_scores})
    check_alike(tensors)
    for name, matrix in tensors.items():
        if matrix.ndim != 2 or len(matrix) != len(scores):
            raise ArgumentError(
                f"{name} must be {len(scores)} queries x keys, got shape {tuple(matrix.shape)}"
            )
        tensors[name] = finite_rows(matrix, name)
    softmax = Softmax(temperature, many, denominator)
    _check_reduction(reduction, on_no_positive)
    groups = [Keys(scores.shape[1], _rows_of(tensors["scores"]), pairing or Pairing.diagonal())]
    if extra_scores is not None:
        extra = _rows_of(tensors["extra_scores"])
        groups.append(Keys(extra_scores.shape[1], extra, extra_pairing or Pairing.none()))
    elif extra_pairing is not None:
        raise ArgumentError("extra_pairing is given without extra_scores")
    _check_pairings(len(scores), [(group.pairing, group.n) for group in groups], symmetric, reduction)
    backward = _rows_of(tensors["scores"].mT) if symmetric else None
    return _contrast(softmax, groups, len(scores), backward, reduction, on_no_positive)


def nt_xent(
    one: Tensor, two: Tensor, *, temperature: float | Tensor, score: Literal["cosine", "dot"] = "cosine"
) -> Tensor:
    """Every view against all 2N - 1 others, its twin near.

    Chen et al. "A Simple Framework for Contrastive Learning of Visual Representations." ICML 2020, eq. 1.

    Args:
        one: first views, [N, d].
        two: second views, [N, d].
        temperature: above 0.
        score: "cosine", or "dot" for inner products of the views as they are.

    Raises:
        ArgumentError: the shapes differ, or as `info_nce`.
    """
    if one.shape != two.shape:
        raise ArgumentError(
            f"one {tuple(one.shape)} and two {tuple(two.shape)} must be two views of the same rows"
        )
    check_alike({"one": one, "two": two})
    views = torch.cat([one, two])
    return info_nce(views, views, Pairing.twins(), temperature=temperature, score=score)


def sup_con(
    z: Tensor, labels: Tensor, *, temperature: float | Tensor, on_no_positive: OnNoPositive = "error"
) -> Tensor:
    """Rows of one label are near, all others far; positives averaged outside the logarithm.

    Khosla et al. "Supervised Contrastive Learning." NeurIPS 2020, eq. 2, without the factor T / T_base.

    Args:
        z: [B, d], all views of all examples.
        labels: [B].
        temperature: above 0.
        on_no_positive: "skip" leaves out a row whose label no other row has.

    Raises:
        ArgumentError: as `info_nce`.
    """
    return info_nce(z, z, Pairing.same(labels), temperature=temperature, on_no_positive=on_no_positive)


def _prepared(rows: Tensor, score: ScoreName | Score, name: str) -> Tensor:
    return unit_rows(rows, name) if score == "cosine" else finite_rows(rows, name)


def _compare(score: ScoreName | Score) -> Score:
    if callable(score):
        return lambda a, b: at_least_float32(score(a, b))
    # Rows are scaled to length one beforehand, once, so that the cosine is their inner product.
    known: dict[str, Score] = {name: SCORES[name] for name in get_args(ScoreName)} | {"cosine": dot}
    if score not in known:
        raise ArgumentError(f"score must be a function or one of {', '.join(known)}, got {score!r}")
    return known[score]


def _rows_of(scores: Tensor) -> Callable[[range], Tensor]:
    return lambda rows: scores[rows.start : rows.stop]


def _similarities(
    queries: Tensor, keys: Tensor, compare: Score
) -> tuple[Callable[[range], Tensor], Callable[[range], Tensor]]:
    """Scores of given queries, [r, M], and of given keys, [r, B]: cut from one matrix where that is small."""
    if fits(len(queries), len(keys)):
        scores = compare(queries, keys)
        return _rows_of(scores), _rows_of(scores.mT)

    def of_queries(rows: range) -> Tensor:
        return compare(queries[rows.start : rows.stop], keys)

    def of_keys(rows: range) -> Tensor:
        return compare(queries, keys[rows.start : rows.stop]).mT

    return of_queries, of_keys


def _against_extra(
    queries: Tensor, extra: Tensor, compare: Score, *, batched: bool
) -> Callable[[range], Tensor]:
    """Scores of given queries with keys [E, d] that all share, or [B, E, d] that each owns."""

    def of_queries(rows: range) -> Tensor:
        chunk = queries[rows.start : rows.stop]
        if extra.ndim == queries.ndim:
            return compare(chunk, extra)
        own = extra[rows.start : rows.stop]
        if batched:
            return compare(chunk[:, None], own)[:, 0]
        return torch.cat([compare(chunk[i : i + 1], own[i]) for i in range(len(chunk))])

    return of_queries


def _contrast(
    softmax: Softmax,
    groups: list[Keys],
    n_rows: int,
    backward: Callable[[range], Tensor] | None,
    reduction: Reduction,
    on_no_positive: OnNoPositive,
) -> Tensor:
    """Loss of the queries, or its mean with that of the keys if `backward` gives the scores of these."""
    directions = [softmax.losses(n_rows, groups)]
    check_all_found(directions[0].found, ("query", "key"), on_no_positive)
    if backward is not None:
        turned = [Keys(n_rows, backward, groups[0].pairing.reversed())]
        directions.append(softmax.losses(groups[0].n, turned))
        check_all_found(directions[1].found, ("key", "query"), on_no_positive)
    reduced = [_reduced(losses, reduction) for losses in directions]
    return reduced[0] if len(reduced) == 1 else (reduced[0] + reduced[1]) / 2


def _check_reduction(reduction: Reduction, on_no_positive: OnNoPositive) -> None:
    if reduction not in ("mean", "none", "sum") or on_no_positive not in ("error", "skip"):
        raise ArgumentError(
            "reduction must be 'mean', 'none' or 'sum' and on_no_positive 'error' or 'skip', "
            f"got {reduction!r} and {on_no_positive!r}"
        )


def _check_pairings(
    n_rows: int, groups: list[tuple[Pairing | None, int]], symmetric: bool, reduction: Reduction
) -> None:
    """Refuse pairings that do not fit the numbers of rows and keys, and rows without a choice."""
    given = [(pairing, n) for pairing, n in groups if pairing is not None]
    for pairing, n in given:
        pairing.check(n_rows, n)
    first, n_keys = given[0]
    directions = [(n_rows, given, "key")] + [(n_keys, [(first.reversed(), n_rows)], "query")] * symmetric
    for rows, columns, name in directions:
        choice = sum(pairing.nearness.keys_of_a_row(n) for pairing, n in columns)
        if rows < 1 or choice < 2:
            raise ArgumentError(
                f"{rows} rows with {choice} {name} to choose from: without negatives nothing can be told "
                "apart; use a larger batch or extra keys"
            )
    if symmetric and reduction == "none" and n_keys != n_rows:
        raise ArgumentError(f"symmetric with reduction='none' needs as many keys as queries ({n_rows})")


def _reduced(losses: RowLosses, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses.loss
    total = losses.loss.sum()
    return total if reduction == "sum" else total / losses.found.sum().clamp(min=1)
