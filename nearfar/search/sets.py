"""Operations on sets of examples: a pool of rows, ordered by how near it is to some sets and how far from others.

As in Liu. "SetCSE: Set Operations using Contrastive Learning of Sentence Embeddings." ICLR 2024. The pool and the
example sets play different parts: what comes out is always an ordering of the pool, and where to cut it is the
user's choice. So no operation commutes with its pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import ArgumentError
from nearfar.geometry import SCORES, finite_rows, unit_rows
from nearfar.ops.row_chunks import row_chunks
from nearfar.search.index import Index
from nearfar.search.ranking import best_first
from nearfar.search.sparse import SparseIndex


def set_similarity(pool: np.ndarray, members: np.ndarray, geometry: str = "cosine") -> np.ndarray:
    """SIM(x, S) = mean over s in S of score(x, s), for every row x of the pool.

    With the cosine this is x . m for x of length one and m the mean of the members scaled to length one; m itself
    is not scaled, so a scattered set has smaller similarities than a tight one (it is no cosine with m).

    Args:
        pool: [N, d].
        members: the set's examples, [n, d].
        geometry: name of the score, of `nearfar.geometry.SCORES`.

    Returns:
        float32 [N].

    Raises:
        ArgumentError: no member, widths differ, a row is not finite (cosine: or all zeros), or no such score.
    """
    examples = _checked(members, geometry, "the examples of a set")
    if np.ndim(pool) != 2 or np.shape(pool)[1] != examples.shape[1]:
        raise ArgumentError(
            f"the pool must be rows as wide as the set's ({examples.shape[1]}), got shape {np.shape(pool)}"
        )
    similarity = np.empty(len(pool), dtype=np.float32)
    for rows in row_chunks(len(pool), max(examples.shape)):
        name = f"rows {rows.start + 1} to {rows.stop} of the pool"
        block = _checked(pool[rows.start : rows.stop], geometry, name)
        similarity[rows.start : rows.stop] = SCORES[geometry](block, examples).mean(dim=1).numpy()
    return similarity


def _checked(rows: np.ndarray, geometry: str, name: str) -> Tensor:
    """Rows as a tensor of their own; with the cosine of length one."""
    if geometry not in SCORES:
        raise ArgumentError(f"geometry {geometry!r} is unknown: one of {', '.join(SCORES)}")
    if np.ndim(rows) != 2 or not np.size(rows):
        raise ArgumentError(f"{name} must be a matrix with one embedding a row, got shape {np.shape(rows)}")
    tensor = torch.from_numpy(np.array(rows, dtype=np.float32))
    return (unit_rows if geometry == "cosine" else finite_rows)(tensor, name)


def series(
    pool: np.ndarray,
    near: Sequence[np.ndarray] = (),
    without: Sequence[np.ndarray] = (),
    k: int | None = None,
    geometry: str = "cosine",
) -> tuple[np.ndarray, np.ndarray]:
    """The pool A in the order of A with B_1 .. B_N minus C_1 .. C_M:

        f(x) = sum_i SIM(x, B_i) - sum_j SIM(x, C_j)        largest first

    The order in which sets are added or taken away does not matter.

    Args:
        pool: A, [N, d].
        near: the B_i, each [n_i, d].
        without: the C_j, each [m_j, d].
        k: how many rows are given; None: all.
        geometry: name of the score, of `nearfar.geometry.SCORES`.

    Returns:
        f, float32 [k], and rows of the pool, int64 [k]; equal scores in the order of rows.

    Raises:
        ArgumentError: no set at all, k below 1, or as `set_similarity`.
    """
    _check_sets(near, without)
    if k is not None and k < 1:
        raise ArgumentError(f"k must be at least 1, got {k}")
    scores = np.zeros(len(pool), dtype=np.float32)
    for members in near:
        scores += set_similarity(pool, members, geometry)
    for members in without:
        scores -= set_similarity(pool, members, geometry)
    kept = len(scores) if k is None else min(k, len(scores))
    values, rows = best_first(torch.from_numpy(scores)[None], torch.arange(len(scores)), kept)
    return values[0].numpy(), rows[0].numpy()


def _check_sets(near: Sequence[np.ndarray], without: Sequence[np.ndarray]) -> None:
    if not len(near) and not len(without):
        raise ArgumentError("an operation needs a set: give near, without, or both")


def intersection(
    pool: np.ndarray, members: np.ndarray, k: int | None = None, geometry: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """A with B: the pool in descending order of SIM(x, B). Arguments and returns as `series`."""
    return series(pool, [members], [], k, geometry)


def difference(
    pool: np.ndarray, members: np.ndarray, k: int | None = None, geometry: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """A minus C: the pool in ascending order of SIM(x, C); scores are -SIM. Arguments and returns as `series`."""
    return series(pool, [], [members], k, geometry)


def series_of_index(
    index: Index | SparseIndex,
    near: Sequence[np.ndarray] = (),
    without: Sequence[np.ndarray] = (),
    k: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """`series` of the rows of an index, in its geometry.

    With the cosine and the inner product, f(x) is the product of x with one vector, the sum of the means of the
    B_i minus those of the C_j: the index is asked for that. Other scores visit every row.

    Args:
        index: holds the pool.
        near: as in `series`.
        without: as in `series`.
        k: how many rows are given; at most all.

    Raises:
        ArgumentError: the sets cancel (cosine), the index keeps no vectors that could be visited, or as `series`.
    """
    _check_sets(near, without)
    geometry = index.geometry
    if geometry not in ("cosine", "dot"):
        if not isinstance(index, Index):
            raise ArgumentError(f"sets cannot be searched in an index of inverted lists with {geometry!r}")
        width = np.shape([*near, *without][0])[-1]  # a hyperbolic index has a time component more
        return series(index.vectors[:, :width], near, without, k, geometry)
    means = [
        sign * _checked(members, geometry, "the examples of a set").double().mean(dim=0).numpy()
        for sign, group in ((1, near), (-1, without))
        for members in group
    ]
    query = np.sum(means, axis=0)
    length = float(np.linalg.norm(query)) if geometry == "cosine" else 1.0
    if length < 1e-6:
        raise ArgumentError(
            "the sets to be near to and those to be far from cancel: no row is nearer than another"
        )
    scores, rows = index.search((query / length).astype(np.float32)[None], k)
    return scores[0] * np.float32(length), rows[0]
