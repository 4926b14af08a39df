"""One logistic decision per pair: near or far, without a softmax over the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nearfar.errors import ArgumentError
from nearfar.geometry import ScoreName, dot, euclidean_factors, finite_rows, unit_rows
from nearfar.objectives.inputs import check_alike, check_one_width, check_temperature
from nearfar.objectives.nearness import Streamed
from nearfar.objectives.pairing import Pairing
from nearfar.objectives.streamed import streamed_rule, sum_over_labels
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.pair_sums import pair_sum, softplus
from nearfar.ops.row_chunks import over_row_chunks


def binary_nce(
    queries: Tensor,
    keys: Tensor,
    pairing: Pairing | None = None,
    *,
    temperature: float | Tensor,
    bias: float | Tensor = 0.0,
    score: ScoreName = "cosine",
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Sigmoid loss of all pairs:

        loss = - 1/B sum_ij [ t_ij log sigma(l_ij) + w_ij log sigma(-l_ij) ]     l = score / temperature + bias

    with t the targets of near pairs and w the weights of far ones. In tiles, without a B x M matrix.

    Zhai, Mustafa, Kolesnikov, Beyer. "Sigmoid Loss for Language Image Pre-Training." ICCV 2023, eq. 1 (there
    temperature starts at 1/10 and bias at -10).

    Args:
        queries: [B, d].
        keys: [M, d].
        pairing: None: key i is near query i, the others far.
        temperature: above 0; a tensor of one element receives its gradient.
        bias: b; a tensor of one element receives its gradient.
        score: cosine, dot or euclidean.
        reduction: "mean" divides the sum over all pairs by B.

    Raises:
        ArgumentError: rows are NaN, infinite, or zeros (cosine); shapes, devices or types differ; the pairing
            does not fit or keeps ranks; the temperature is not above 0.
    """
    tensors = {"queries": queries, "keys": keys}
    check_alike(tensors)
    check_one_width(queries, keys)
    check_temperature(temperature)
    pairing = pairing or Pairing.diagonal()
    pairing.check(len(queries), len(keys))
    if score not in get_args(ScoreName) or reduction not in ("mean", "sum") or pairing.rank is not None:
        raise ArgumentError(
            f"binary_nce takes score {', '.join(get_args(ScoreName))}, reduction 'mean' or 'sum', and pairings without "
            f"hardest(), got {score!r} and {reduction!r}"
        )
    x, k = (unit_rows(t, n) if score == "cosine" else finite_rows(t, n) for n, t in tensors.items())
    if score == "euclidean":
        x, (k,) = euclidean_factors(x, [k])
    # The bias is one more column, so that it needs nothing of its own.
    ones = torch.ones_like(x[:, :1])
    x, k = torch.cat([x / temperature, ones * bias], dim=1), torch.cat([k, torch.ones_like(k[:, :1])], dim=1)
    near = pairing.nearness.streamed(len(x), x.device)
    rule = streamed_rule(pairing, x.device)
    if near is None or near.ignores_others or rule is None or rule[1] is not None or rule[0].diagonal != 1.0:
        total = _by_rows(x, k, pairing)
    else:
        total = _streamed(x, k, near, rule[0])
    return total / len(queries) if reduction == "mean" else total


def _streamed(x: Tensor, k: Tensor, near: Streamed, rule: PairRule) -> Tensor:
    """Every pair is counted as far, log(1 + e^l); a near one is then worth -l more."""
    rule = replace(rule, skip_diagonal=near.skips_self, near=near.labels)
    total = pair_sum(x, k, softplus, rule, near.index)
    if near.index is not None:
        return total - (x * k[near.index]).sum()
    if near.labels is None:
        return total
    return total - sum_over_labels(near.labels, x, k, torch.ones_like(x[:, 0]), skips_self=near.skips_self)


def _by_rows(x: Tensor, k: Tensor, pairing: Pairing) -> Tensor:
    def of_rows(rows: range) -> tuple[Tensor]:
        logits = dot(x[rows.start : rows.stop], k)
        block = pairing.rows_block(rows, len(x), logits)
        far = block.far.to(logits.dtype)
        if block.log_weight is not None:
            far = far * block.log_weight.exp()
        losses = block.target * functional.softplus(-logits) + far * functional.softplus(logits)
        return (losses.sum(dim=1),)

    return over_row_chunks(of_rows, len(x), len(k))[0].sum()
