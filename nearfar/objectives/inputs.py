"""What objectives refuse before they compute anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from nearfar.errors import ArgumentError

OnNoPositive = Literal["error", "skip"]


def check_all_found(found: Tensor, names: tuple[str, str], on_no_positive: OnNoPositive) -> None:
    """Raise ArgumentError if a row has no near key and that is an error.

    Args:
        found: [N] whether a row has one.
        names: what a row and a column are called.
        on_no_positive: "error" or "skip".
    """
    if on_no_positive == "error" and not bool(found.all()):
        alone = (~found).nonzero()
        row, column = names
        raise ArgumentError(
            f"{row} row {int(alone[0]) + 1} has no near {column} ({len(alone)} such rows): give it one, "
            "or leave such rows out with on_no_positive='skip'"
        )


def check_temperature(temperature: float | Tensor) -> None:
    """Raise ArgumentError unless it is one finite number above 0."""
    one = not isinstance(temperature, Tensor) or temperature.numel() == 1
    if (
        not one
        or not 0 < float(temperature.detach() if isinstance(temperature, Tensor) else temperature) < math.inf
    ):
        raise ArgumentError(f"temperature must be one finite number above 0, got {temperature}")


def check_alike(tensors: Mapping[str, Tensor]) -> None:
    """Raise ArgumentError unless all are floating-point tensors of one type on one device."""
    (first, one), *others = tensors.items()
    if not one.dtype.is_floating_point:
        raise ArgumentError(f"{first} must be floating-point, got {one.dtype}")
    for name, other in others:
        if other.dtype != one.dtype or other.device != one.device:
            raise ArgumentError(
                f"{first} ({one.dtype} on {one.device}) and {name} ({other.dtype} on {other.device}) "
                "must be of one type on one device: use .to()"
            )


def check_one_width(queries: Tensor, keys: Tensor) -> None:
    """Raise ArgumentError unless both are rows of embeddings of one shape."""
    if queries.ndim < 2 or keys.ndim != queries.ndim or keys.shape[1:] != queries.shape[1:]:
        raise ArgumentError(
            "queries [B, d] and keys [M, d] must have rows of one width, "
            f"got {list(queries.shape)} and {list(keys.shape)}"
        )


def check_extra_keys(extra: Tensor, queries: Tensor) -> None:
    """Raise ArgumentError unless `extra` is [E, d], or [B, E, d] with as many lists as queries."""
    own = extra.ndim == queries.ndim + 1
    if not own and extra.ndim == queries.ndim and extra.shape[1:] == queries.shape[1:]:
        return
    if not own or len(extra) != len(queries) or extra.shape[2:] != queries.shape[1:]:
        raise ArgumentError(
            "extra_keys must be [E, d] or [B, E, d], "
            f"got {list(extra.shape)} for queries {list(queries.shape)}"
        )


def check_same_shape(x: Tensor, y: Tensor) -> None:
    """Raise ArgumentError unless row i of x and row i of y can be a pair."""
    if x.ndim != 2 or x.shape != y.shape:
        raise ArgumentError(
            f"x and y must be row-aligned, [N, d] both, got {list(x.shape)} and {list(y.shape)}"
        )
