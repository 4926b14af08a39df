"""The only generic block: linear layers with a norm, an activation and dropout between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from nearfar.errors import ArgumentError

NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def mlp(
    dims: Sequence[int],
    norm: str | None = None,
    dropout: float = 0.0,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Linear layers of widths `dims`; between two of them norm, activation and dropout.

    Args:
        dims: widths, input first; (in, out) is one linear layer.
        norm: "layer", "batch" (statistics over the batch) or None.
        dropout: probability that a hidden unit is dropped.
        activation: made without arguments.

    Raises:
        ArgumentError: fewer than two widths, a width below 1, or an unknown norm.
    """
    if len(dims) < 2 or min(dims) < 1:
        raise ArgumentError(f"dims={tuple(dims)}: give at least two widths, each at least 1")
    if norm is not None and norm not in NORMS:
        raise ArgumentError(f"norm={norm!r} is unknown: choose one of {', '.join(NORMS)} or None")
    layers: list[nn.Module] = []
    for before, after in pairwise(dims[:-1]):
        # The shift of a norm makes the bias before it redundant.
        layers.append(nn.Linear(before, after, bias=norm is None))
        if norm is not None:
            layers.append(NORMS[norm](after))
        layers.append(activation())
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(dims[-2], dims[-1]))
    return nn.Sequential(*layers)
