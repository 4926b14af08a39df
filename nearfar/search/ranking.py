"""The k best of many scores, with ties in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import dot, finite_rows
from nearfar.ops.row_chunks import row_chunks

_LOW = 0xFFFF_FFFF
_MAGNITUDE = 0x7FFF_FFFF


def best_first(scores: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest scores of each row, largest first; equal scores in the order of their ids.

    A score of -inf means "not a candidate": it comes last, with id -1.

    Args:
        scores: [Q, C], no NaN; compared in float32.
        ids: [Q, C] or [C], from 0 to 2^32 - 2.
        k: at most C.

    Returns:
        Scores [Q, k] float32 and ids [Q, k] int64.
    """
    # Score and id are packed into one integer, so that no two entries tie and any top-k is exact: the
    # bits of a float order as an integer once those of negative ones are mirrored.
    bits = (scores.float() + 0.0).view(torch.int32).long()
    packed = (_mirrored(bits) << 32) + (_LOW - ids.clamp(min=0))
    top = packed.topk(k, dim=1).values
    values = _mirrored(top >> 32).int().view(torch.float32)
    found = (_LOW - (top & _LOW)).masked_fill(values == -torch.inf, -1)
    return values, found


def _mirrored(bits: Tensor) -> Tensor:
    return torch.where(bits < 0, bits ^ _MAGNITUDE, bits)


@torch.no_grad()
def top_k(
    queries: Tensor, keys: Tensor, k: int, exclude: Tensor | None = None, chunk: int = 16_384
) -> tuple[Tensor, Tensor]:
    """The `k` keys of largest dot product for each query, exact, without a [Q, M] matrix.

    For cosine, give rows of unit length. Runs where the tensors are.

    Args:
        queries: [Q, d].
        keys: [M, d].
        k: how many; at most M are given.
        exclude: [Q, E] ids of keys that must not be given to a query (itself, its positives); -1 fills.
        chunk: keys looked at together.

    Returns:
        Scores [Q, k] float32 and ids [Q, k] int64, best first, ties by id. Where fewer than k keys are
        left for a query, its last ids are -1 and their scores -inf.

    Raises:
        ArgumentError: k or chunk is below 1, shapes do not fit, an id in `exclude` is no key, or a row is
            not finite.
    """
    if k < 1 or chunk < 1:
        raise ArgumentError(f"k and chunk must be at least 1, got k={k}, chunk={chunk}")
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1] or not len(keys):
        raise ArgumentError(
            f"queries [Q, d] and keys [M, d] must have one width and M >= 1, got {tuple(queries.shape)} and "
            f"{tuple(keys.shape)}"
        )
    if exclude is not None and (exclude.ndim != 2 or len(exclude) != len(queries)):
        raise ArgumentError(f"exclude must be [{len(queries)}, E], got {tuple(exclude.shape)}")
    if (
        exclude is not None
        and exclude.numel()
        and not -1 <= int(exclude.min()) <= int(exclude.max()) < len(keys)
    ):
        raise ArgumentError(f"exclude must hold -1 or ids of keys, 0 to {len(keys) - 1}")
    queries, keys = finite_rows(queries, "queries"), finite_rows(keys, "keys")
    k = min(k, len(keys))
    scores = torch.empty(len(queries), k, device=queries.device)
    ids = torch.empty(len(queries), k, dtype=torch.long, device=queries.device)
    for rows in row_chunks(len(queries), min(chunk, len(keys)) + k):
        part = slice(rows.start, rows.stop)
        hidden = None if exclude is None else exclude[part].to(queries.device)
        scores[part], ids[part] = _over_keys(queries[part], keys, k, hidden, chunk)
    return scores, ids


def _over_keys(
    queries: Tensor, keys: Tensor, k: int, exclude: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    best = queries.new_full((len(queries), k), -torch.inf, dtype=torch.float32)
    best_ids = torch.full_like(best, -1, dtype=torch.long)
    for start in range(0, len(keys), chunk):
        scores = dot(queries, keys[start : start + chunk]).float()
        ids = torch.arange(start, start + scores.shape[1], device=scores.device)
        if exclude is not None:
            row, column = ((exclude >= start) & (exclude < start + chunk)).nonzero(as_tuple=True)
            scores[row, exclude[row, column] - start] = -torch.inf
        best, best_ids = best_first(
            torch.cat([best, scores], 1), torch.cat([best_ids, ids.expand(len(queries), -1)], 1), k
        )
    return best, best_ids
