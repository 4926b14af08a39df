"""From one vector a position to one vector an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nearfar.errors import ArgumentError


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    # Zeroed rather than multiplied: whatever stands in a padded position (even NaN) stays out.
    kept = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _at(tokens: Tensor, position: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), position]


def _first(tokens: Tensor, mask: Tensor) -> Tensor:
    return _at(tokens, mask.int().argmax(dim=1))


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return _at(tokens, (mask * places).argmax(dim=1))


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)


_OF_TOKENS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "cls": _first,
    "last": _last,
    "max": _max,
}
OF_LAYERS = {"first_last": (1, -1), "top2": (-2, -1)}
"""The kinds that mix two layers, and which."""
POOLINGS = (*_OF_TOKENS, *OF_LAYERS)
"""The kinds that `pool` knows."""


def needs_layers(kind: str) -> bool:
    """Whether `kind` pools the states of several layers.

    Raises:
        ArgumentError: no such kind.
    """
    if kind not in POOLINGS:
        raise ArgumentError(f"pooling={kind!r} is unknown: choose one of {', '.join(POOLINGS)}")
    return kind in OF_LAYERS


def pool(tokens: Tensor, mask: Tensor, kind: str = "mean", layers: Sequence[Tensor] = ()) -> Tensor:
    """Pool the valid positions of each example.

    Args:
        tokens: states of the last layer, [B, L, d].
        mask: True where a position is valid, bool [B, L]; every row needs one. A mask that is True
            inside a span only makes this a span pool.
        kind: "mean", "cls" (the first valid position), "last" (the last valid position), "max",
            "first_last" (mean of the means of layer 1 and the last) or "top2" (the last two).
        layers: states of every layer, input embeddings first, for the two kinds that mix layers; the
            poolers "avg_first_last" and "avg_top2" of Gao et al., SimCSE, EMNLP 2021.

    Returns:
        [B, d]

    Raises:
        ArgumentError: an unknown kind, an example without a valid position, or too few layers.
    """
    mixes_layers = needs_layers(kind)
    if not bool(mask.any(dim=1).all()):
        empty = int((~mask.any(dim=1)).nonzero()[0])
        raise ArgumentError(f"nothing to pool: example {empty + 1} of the batch has no valid position")
    if not mixes_layers:
        return _OF_TOKENS[kind](tokens, mask)
    if len(layers) < 3:
        raise ArgumentError(
            f"pooling={kind!r} needs the states of at least two layers and the input embeddings; "
            f"got {len(layers)} states: ask the encoder for layers=True"
        )
    one, other = OF_LAYERS[kind]
    return (_mean(layers[one], mask) + _mean(layers[other], mask)) / 2
