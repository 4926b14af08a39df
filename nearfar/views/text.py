"""Positives made of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nearfar.encoders.encoder import Encoder, Features
from nearfar.errors import ArgumentError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def dropout_twins(encoder: Encoder, inputs: dict[str, Tensor], n: int = 2, **taps: bool) -> list[Features]:
    """Encode every example `n` times in one forward pass of n * B rows, each under its own dropout mask.

    Gao, Yao, Chen. "SimCSE: Simple Contrastive Learning of Sentence Embeddings." EMNLP 2021, section 3.

    Args:
        encoder: an encoder in training mode with dropout.
        inputs: what its `prepare` returned for B examples.
        n: number of twins, at least 2.
        taps: what the encoder's `forward` is to return besides, such as `layers` or `attention`.

    Returns:
        `n` feature sets of B rows; row i of each is example i.

    Raises:
        ArgumentError: no dropout is at work, so that the twins would be equal, or `n` is below 2.
    """
    if n < 2:
        raise ArgumentError(f"n={n}: twins are at least 2")
    dropouts = [part for part in encoder.modules() if isinstance(part, _DROPOUTS) and part.p > 0]
    if not any(part.training for part in dropouts):
        reason = "is in evaluation mode: call .train() first" if dropouts else "has no dropout"
        raise ArgumentError(
            f"dropout twins of {type(encoder).__name__} would be equal, because the encoder {reason}"
        )
    repeated = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    return _parts(encoder(repeated, **taps), n)


def _parts(together: Features, n: int) -> list[Features]:
    size = len(together.pooled) // n
    return [_rows(together, slice(k * size, (k + 1) * size)) for k in range(n)]


def _rows(features: Features, rows: slice) -> Features:
    return Features(
        features.tokens[rows],
        features.mask[rows],
        features.pooled[rows],
        tuple(layer[rows] for layer in features.layers),
        tuple(weights[rows] for weights in features.attention),
    )


def prepare_together(encoder: Encoder, *columns: Sequence[Any]) -> dict[str, Tensor]:
    """Prepare n columns of B examples for one pass: tensors [B, n, ...], padded alike.

    Raises:
        ArgumentError: an example that the encoder cannot read.
    """
    made = encoder.prepare([cell for row in zip(*columns, strict=True) for cell in row])
    return {name: value.unflatten(0, (-1, len(columns))) for name, value in made.items()}


def encode_together(encoder: Encoder, inputs: dict[str, Tensor]) -> list[Features]:
    """Encode what `prepare_together` returned in one pass of n * B rows, each under a dropout mask of its own.

    Returns:
        n feature sets of B rows, in the order of the columns.
    """
    n = next(iter(inputs.values())).shape[1]
    return _parts(encoder({name: value.transpose(0, 1).flatten(0, 1) for name, value in inputs.items()}), n)
