"""The streaming kernel under every softmax objective, as one differentiable operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nearfar.ops.kept_gradients import keep, times_upstream
from nearfar.ops.pair_rule import PairRule
from nearfar.ops.softmax_terms import Gradients, Group, Terms
from nearfar.ops.tiles import TILE, ranges, row_dots
from nearfar.ops.torch_softmax import softmax_sums
from nearfar.ops.triton_softmax import available, softmax_sums_triton


@dataclass(frozen=True)
class Columns:
    """A group of columns as an objective gives it.

    Attributes:
        keys: [M, d].
        rule: which pairs take part, without weights of columns.
        log_weights: [M] logarithms of these, with gradient if they want one; None: all 0.
    """

    keys: Tensor
    rule: PairRule
    log_weights: Tensor | None = None


def softmax_contrast(
    x: Tensor,
    columns: Sequence[Columns],
    terms: Terms,
    *,
    temperature: float | Tensor = 1.0,
    unit: bool = False,
) -> Tensor:
    """`softmax_sums` of scores x k^T / temperature, with gradients for everything that requires one.

    The gradients are computed with the value, and are all that is kept for the backward pass: as many numbers as
    `x` and the keys hold. There are no second ones. Half precision is computed in float32.

    Args:
        x: [N, d].
        columns: groups of keys [M, d]; where the only one is `x` itself, the symmetry of the scores is used.
        terms: what to sum; `own` may require gradient. With rows and keys as they are (`unit` False) and no
            finite bound the bound is taken from their lengths.
        temperature: above 0; a tensor of one element receives its gradient. `own` is not divided by it.
        unit: whether rows and keys are scaled to length one first.

    Returns:
        A scalar; not finite where an input is not, where a row to be scaled is zero, or where a row (column)
        has no pair.
    """
    itself = len(columns) == 1 and columns[0].keys is x and terms.column is None
    tau = temperature if isinstance(temperature, Tensor) else None
    weights = [group.log_weights for group in columns]
    differentiable = [x, tau, terms.own, *(None if itself else group.keys for group in columns), *weights]
    recording = torch.is_grad_enabled()
    wanted = [t is not None and recording and t.requires_grad for t in differentiable]
    problem = _Problem(
        tuple(group.rule for group in columns),
        terms,
        _number(temperature),
        unit,
        itself,
        tuple(wanted),
    )
    value: Tensor = _SoftmaxContrast.apply(problem, *differentiable)
    return value


@dataclass(frozen=True)
class _Problem:
    rules: tuple[PairRule, ...]
    terms: Terms
    temperature: float
    unit: bool
    itself: bool
    wanted: tuple[bool, ...]


class _SoftmaxContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: _Problem, *inputs: Tensor | None) -> Tensor:
        x = inputs[0]
        assert x is not None
        with torch.autocast(x.device.type, enabled=False):
            value, gradients = _evaluate(problem, *inputs)
        keep(ctx, gradients)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return None, *times_upstream(ctx, upstream)


def _evaluate(problem: _Problem, *inputs: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
    x, tau, own, *rest = inputs
    assert x is not None
    n_groups = len(problem.rules)
    raw_keys, log_weights = rest[:n_groups], rest[n_groups:]
    scale = 1 / problem.temperature
    rows, row_factor = _scaled(x, math.sqrt(scale) if problem.itself else scale, problem.unit)
    scaled = [(rows, row_factor) if keys is None else _scaled(keys, 1.0, problem.unit) for keys in raw_keys]
    rules = [
        rule if weights is None else replace(rule, weights=weights.to(rows.dtype).exp())
        for rule, weights in zip(problem.rules, log_weights, strict=True)
    ]
    groups = [Group(keys, rule) for (keys, _), rule in zip(scaled, rules, strict=True)]
    terms = replace(problem.terms, own=None if own is None else own.to(rows.dtype))
    if terms.bound == math.inf:
        bound = scale if problem.unit else _longest(rows, [keys for keys, _ in scaled])
        terms = replace(terms, bound=bound if own is None else max(bound, float(own.amax())))
    want_x, want_tau, want_own, *want_rest = problem.wanted
    wanted = Gradients(
        torch.zeros_like(rows) if want_x or want_tau else None,
        torch.zeros_like(terms.own) if want_own and terms.own is not None else None,
        tuple(_zeros(keys, want) for (keys, _), want in zip(scaled, want_rest[:n_groups], strict=True)),
        tuple(_zeros(r.weights, want) for r, want in zip(rules, want_rest[n_groups:], strict=True)),
    )
    if available(x):
        # Tensor cores multiply in the type of the inputs; what is summed stays in float32.
        alike = all(keys is None or keys.dtype == x.dtype for keys in raw_keys)
        low = rows.to(x.dtype if alike else rows.dtype)
        groups = [
            Group(low if group.keys is rows else group.keys.to(low.dtype), group.rule) for group in groups
        ]
        value = softmax_sums_triton(low, groups, terms, wanted)
    else:
        value = softmax_sums(rows, groups, terms, wanted)
    along = None if wanted.x is None else row_dots(rows, wanted.x)
    d_tau = None
    if tau is not None and along is not None and want_tau:
        pairs = 0.5 if problem.itself else 1.0
        d_tau = (-scale * pairs * along.sum()).to(tau.dtype).reshape(tau.shape)
    d_x = _unscaled(wanted.x, rows, row_factor, along) if want_x else None
    d_keys = [
        None if gradient is None else _unscaled(gradient, keys, factor, None)
        for gradient, (keys, factor) in zip(wanted.keys, scaled, strict=True)
    ]
    gradients = [d_x, d_tau, wanted.own, *d_keys, *wanted.log_weights]
    return value, [_like(gradient, source) for gradient, source in zip(gradients, inputs, strict=True)]


def _zeros(x: Tensor | None, want: bool) -> Tensor | None:
    return torch.zeros_like(x) if want and x is not None else None


def _like(gradient: Tensor | None, source: Tensor | None) -> Tensor | None:
    return None if gradient is None or source is None else gradient.to(source.dtype)


def _scaled(x: Tensor, scale: float, unit: bool) -> tuple[Tensor, Tensor | float]:
    """`x` in at least float32 times a factor, and this: a number, or one for each row [N, 1]."""
    x = x if x.dtype == torch.float64 else x.float()
    factor: Tensor | float = scale
    if unit:
        factor = scale / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    elif scale == 1.0:
        return x, 1.0
    return x * factor, factor


def _unscaled(
    gradient: Tensor | None, scaled: Tensor, factor: Tensor | float, along: Tensor | None
) -> Tensor | None:
    """The gradient for x from that for factor x (changed in place): a factor of each row keeps its length."""
    if gradient is None or isinstance(factor, float):
        return gradient if gradient is None or factor == 1.0 else gradient.mul_(factor)
    along = row_dots(scaled, gradient) if along is None else along
    for rows in ranges(len(scaled), 4 * TILE):
        at = slice(rows.start, rows.stop)
        squares = scaled[at].square().sum(1)
        gradient[at].addcmul_(scaled[at], (along[at] / squares)[:, None], value=-1)
    return gradient.mul_(factor)


def _longest(rows: Tensor, keys: Sequence[Tensor]) -> float:
    """No inner product of a row with a key is larger (Cauchy-Schwarz)."""
    longest = max(float(torch.linalg.vector_norm(k, dim=1).amax()) for k in keys)
    return float(torch.linalg.vector_norm(rows, dim=1).amax()) * longest


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else value
