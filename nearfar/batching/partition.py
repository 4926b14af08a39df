"""Cutting a graph into parts of equal size that hold as many of its edges as possible."""

from __future__ import annotations

from typing import Any

import numpy as np

from nearfar.errors import check_between, need

EXTRA = "retrieval"
"""The extra of nearfar that brings METIS."""


def balanced_partition(graph: Any, size: int) -> np.ndarray:
    """Cut a graph into parts of exactly `size` rows; the last part takes what is left over.

    METIS (Karypis, Kumar. "A Fast and High Quality Multilevel Scheme for Partitioning Irregular Graphs." SIAM
    J. Sci. Comput. 1998) finds parts of nearly that size with few edges between them. Then the rows that
    are held least by parts that are too large move to those that are too small, heaviest edges first. The
    same graph gives the same parts.

    Args:
        graph: symmetric `scipy.sparse.csr_array` [N, N] with whole positive weights and an empty diagonal.
        size: K, rows of a part.

    Returns:
        The part of each row, int64 [N], 0 ... ceil(N / K) - 1.

    Raises:
        ArgumentError: size is below 1.
        MissingExtra: pymetis is not installed.
    """
    check_between(1, np.inf, size=size)
    rows = graph.shape[0]
    parts = -(-rows // size)
    if parts <= 1 or size == 1:
        return np.arange(rows) // size
    metis = need("pymetis", EXTRA)
    _, found = metis.part_graph(
        parts,
        metis.CSRAdjacency(graph.indptr, graph.indices),
        eweights=graph.data if graph.nnz else None,
        recursive=True,  # small parts: a sixth to a half more weight inside than by the direct k-way scheme
        options=metis.Options(seed=0),
        warn_on_copies=False,
    )
    labels = np.asarray(found, dtype=np.int64)
    sizes = np.bincount(labels, minlength=parts)
    room = np.full(parts, size)
    if left_over := rows % size:
        smallest = int(sizes.argmin())
        renumbered = np.arange(parts)
        renumbered[[smallest, -1]] = parts - 1, smallest
        labels, room[-1] = renumbered[labels], left_over
    return _of_exact_size(graph, labels, room)


def share_inside(graph: Any, labels: np.ndarray) -> float:
    """Share of the edges' weight that lies inside parts: 1 minus the cut ratio.

    Args:
        graph: `scipy.sparse` matrix [N, N].
        labels: the part of each row, [N].
    """
    edges = graph.tocoo()
    inside = labels[edges.coords[0]] == labels[edges.coords[1]]
    return float(edges.data[inside].sum() / max(1, edges.data.sum()))


def _of_exact_size(graph: Any, labels: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Move rows until part p has room[p] rows: out of full parts by least weight, into others by most."""
    labels = labels.copy()
    moving = _overflow(_weights_to_parts(graph, labels, len(room)), labels, room)
    labels[moving] = -1
    free = room - np.bincount(labels[labels >= 0], minlength=len(room))
    stay = labels >= 0
    # Weights between the rows that move and the rows that stay, as (weight, row, part), heaviest first.
    pulls = _weights_to_parts(graph[moving][:, stay], labels[stay], len(room)).tocoo()
    for number in np.lexsort((pulls.coords[1], pulls.coords[0], -pulls.data)):
        row, part = moving[pulls.coords[0][number]], pulls.coords[1][number]
        if labels[row] < 0 and free[part]:
            labels[row] = part
            free[part] -= 1
    labels[labels < 0] = np.repeat(np.arange(len(room)), free)  # no edge leads to a part with room
    return labels


def _overflow(weights: Any, labels: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The rows that parts which are too large hold least: int64, in order."""
    held = weights[np.arange(len(labels)), labels]
    order = np.lexsort((-held, labels))  # part by part, those held most first
    sizes = np.bincount(labels, minlength=len(room))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[place >= room[labels[order]]])


def _weights_to_parts(graph: Any, labels: np.ndarray, parts: int) -> Any:
    """Sum of a row's edges into each part: sparse [R, P]."""
    from scipy.sparse import csr_array

    members = csr_array(
        (np.ones(len(labels), dtype=graph.dtype), labels, np.arange(len(labels) + 1)),
        shape=(len(labels), parts),
    )
    return csr_array(graph @ members)
