"""Search with several queries at once: items ranked by the volume that they span with all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nearfar.errors import ArgumentError
from nearfar.geometry import gram_volume
from nearfar.ops.row_chunks import row_chunks
from nearfar.search.ranking import best_first


def rank_by_volume(
    queries: Sequence[np.ndarray], items: Sequence[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` items that span the smallest volume with each query, nearest first; equal ones in the order of rows.

    A query may be of any number of modalities, and so may an item: G is that of all their vectors together.
    Every item is looked at. With one query and one item modality this is the order of geometry "gram".

    Cicchetti et al. "Gramian Multimodal Representation Learning and Alignment." ICLR 2025 (inference).

    Args:
        queries: for each modality of the queries their embeddings [Q, d].
        items: for each modality of the items their embeddings [N, d].
        k: how many; at most N are given.

    Returns:
        -volume, float32 [Q, k], and rows int64 [Q, k].

    Raises:
        ArgumentError: no modality, k below 1, shapes that do not fit, or a row that is zero or not finite.
    """
    if k < 1:
        raise ArgumentError(f"k must be at least 1, got {k}")
    asked, held = _stacked(queries, "queries"), _stacked(items, "items")
    if asked.shape[2] != held.shape[2]:
        raise ArgumentError(f"queries are {asked.shape[2]} wide, items {held.shape[2]}")
    k, rows = min(k, len(held)), torch.arange(len(held))
    scores, found = [torch.empty(0, k)], [torch.empty(0, k, dtype=torch.long)]
    for query in asked:
        parts = []
        for some in row_chunks(len(held), held.shape[1] * held.shape[2]):
            these = held[some.start : some.stop]
            parts.append(-gram_volume(torch.cat([query.expand(len(these), -1, -1), these], dim=1)))
        best, ids = best_first(torch.cat(parts)[None], rows, k)
        scores.append(best)
        found.append(ids)
    return torch.cat(scores).numpy(), torch.cat(found).numpy()


def _stacked(modalities: Sequence[np.ndarray], name: str) -> torch.Tensor:
    """[N, modalities, d]."""
    shapes = {np.shape(rows) for rows in modalities}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ArgumentError(
            f"{name} must be one matrix [N, d] for each modality, all of one shape, got {sorted(shapes)}"
        )
    return torch.from_numpy(np.stack([np.asarray(rows, dtype=np.float32) for rows in modalities], axis=1))
