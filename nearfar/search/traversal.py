"""From a point of hyperbolic space to its root: what is true of it, from the specific to the general."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import (
    entails,
    finite_rows,
    lorentz_exp0,
    lorentz_inner,
    lorentz_log0,
    lorentz_time,
)
from nearfar.ops.row_chunks import row_chunks


@torch.no_grad()
def towards_root(
    queries: np.ndarray | Tensor, keys: np.ndarray | Tensor, *, steps: int = 50
) -> list[list[int]]:
    """Walk the geodesic from each query to the root and note the nearest key that entails where one is.

        p_k = exp_0((1 - k / (steps - 1)) log_0(q))        k = 0 ... steps - 1
        key at p_k: argmax of <p_k, key>_L over the keys with phi(key, p_k) <= psi(key), and the root

    The root entails everything, and is what is left where it is nearer than all keys that do. Of equal keys the
    first is taken.

    Desai et al. "Hyperbolic Image-Text Representations." ICML 2023 (image traversals).

    Args:
        queries: points as a space of geometry "lorentz" encodes them (curvature -1) [Q, d].
        keys: points of the same space [N, d], such as those of texts.
        steps: points of the walk, both ends included.

    Returns:
        For each query the rows of `keys` met on the way, each once, in the order in which they were met; the root
        is not among them.

    Raises:
        ArgumentError: shapes do not fit, a row is not finite, or there are fewer than two steps.
    """
    asked, held = (torch.as_tensor(rows) for rows in (queries, keys))
    if asked.ndim != 2 or held.ndim != 2 or asked.shape[1] != held.shape[1] or not len(held):
        raise ArgumentError(
            f"queries [Q, d] and keys [N, d] must have one width and N >= 1, got {tuple(asked.shape)} and "
            f"{tuple(held.shape)}"
        )
    if steps < 2:
        raise ArgumentError(f"a walk has its two ends at least: steps must be 2 or more, got {steps}")
    # In float32 a walk close to the axis of a cone would fall out of it by rounding.
    asked, held = finite_rows(asked, "queries").double(), finite_rows(held, "keys").double()
    left = torch.linspace(1, 0, steps, dtype=torch.float64, device=asked.device)[:, None]
    walks = []
    for start in lorentz_log0(asked):
        met = _nearest_entailing(lorentz_exp0(left * start), held)
        walks.append([row for row in dict.fromkeys(met.tolist()) if row >= 0])
    return walks


def _nearest_entailing(points: Tensor, keys: Tensor) -> Tensor:
    """The row of `keys` for each point [P]; -1 where the root is nearer than all that entail it."""
    best, found = -lorentz_time(points), torch.full((len(points),), -1, device=points.device)
    for rows in row_chunks(len(keys), points.numel()):
        part = keys[rows.start : rows.stop]
        near = lorentz_inner(points, part).masked_fill(~entails(part, points[:, None]), -torch.inf)
        values, places = near.max(dim=1)
        better = values > best
        best, found = values.where(better, best), (places + rows.start).where(better, found)
    return found
