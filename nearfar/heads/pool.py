"""From one vector a position to one vector an example."""

from __future__ import annotations

import re
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
_OF_LAYERS = {"first_last": (1, -1), "top2": (-2, -1)}
POOLINGS = (*_OF_TOKENS, *_OF_LAYERS)
"""The kinds that `pool` knows, besides "layer_K"."""


def layer_of(kind: str) -> int | None:
    """K where `kind` is "layer_K", the mean of one layer in the middle; None for all others."""
    found = re.fullmatch(r"layer_([1-9][0-9]*)", kind)
    return int(found[1]) if found else None


def check_pooling(kind: str, layers: int) -> None:
    """Refuse a kind that there is not, or a layer that a model of `layers` does not have.

    Raises:
        ArgumentError: says which there are.
    """
    if needs_layers(kind) and (layer_of(kind) or 0) > layers:
        raise ArgumentError(f"pooling={kind!r}: this model has {layers} layers")


def pooled_places(kind: str, mask: Tensor, ids: Tensor, ends: Tensor) -> Tensor:
    """Where `kind` looks in texts: everywhere, and for "layer_K" only between the tokens that mark the ends.

    Args:
        kind: as in `pool`.
        mask: True where a token is, [B, L].
        ids: token numbers [B, L].
        ends: the numbers of tokens such as [CLS] and [SEP].

    Returns:
        bool [B, L]; a text that has nothing but ends keeps them.
    """
    if layer_of(kind) is None:
        return mask
    inside = mask & ~torch.isin(ids, ends.to(ids.device))
    return torch.where(inside.any(dim=1, keepdim=True), inside, mask)


def needs_layers(kind: str) -> bool:
    """Whether `kind` pools the states of layers other than the last.

    Raises:
        ArgumentError: no such kind.
    """
    if kind not in POOLINGS and layer_of(kind) is None:
        raise ArgumentError(f"pooling={kind!r} is unknown: choose one of {', '.join(POOLINGS)}, layer_K")
    return kind not in _OF_TOKENS


def pool(tokens: Tensor, mask: Tensor, kind: str = "mean", layers: Sequence[Tensor] = ()) -> Tensor:
    """Pool the valid positions of each example.

    Args:
        tokens: states of the last layer, [B, L, d].
        mask: True where a position is valid, bool [B, L]; every row needs one. A mask that is True
            inside a span only makes this a span pool.
        kind: "mean", "cls" (the first valid position), "last" (the last valid position), "max",
            "first_last" (mean of the means of layer 1 and the last), "top2" (the last two) or "layer_K"
            (mean of layer K, such as "layer_8"; layer 1 reads the input embeddings).
        layers: states of every layer, input embeddings first, for the kinds that read layers; the
            poolers "avg_first_last" and "avg_top2" of Gao et al., SimCSE, EMNLP 2021.

    Returns:
        [B, d]

    Raises:
        ArgumentError: an unknown kind, an example without a valid position, or too few layers.
    """
    reads_layers = needs_layers(kind)
    if not bool(mask.any(dim=1).all()):
        empty = int((~mask.any(dim=1)).nonzero()[0])
        raise ArgumentError(f"nothing to pool: example {empty + 1} of the batch has no valid position")
    if not reads_layers:
        return _OF_TOKENS[kind](tokens, mask)
    layer = layer_of(kind)
    if len(layers) < 1 + (layer or 2):
        raise ArgumentError(
            f"pooling={kind!r} needs the states of at least {layer or 2} layers and the input embeddings; "
            f"got {len(layers)} states: ask the encoder for layers=True"
        )
    if layer is not None:
        return _mean(layers[layer], mask)
    one, other = _OF_LAYERS[kind]
    return (_mean(layers[one], mask) + _mean(layers[other], mask)) / 2
