"""Citation graphs as tables of nodes: what several experiments read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from nearfar.data.kinds import Label, Links, Vector
from nearfar.data.table import Table
from nearfar.experiment import DataFolder


def citations(data: DataFolder, name: str) -> Table:
    """Cora or Citeseer: papers with the words that they hold, who cites whom (both ways), and their field.

    15 papers of Citeseer have the label -1: they are of no known field.
    """
    with np.load(data.file(f"{name}/{name}.npz"), allow_pickle=False) as arrays:
        return _table(name, _words(arrays), {"links": arrays["edges"]}, arrays["labels"])


def acm_papers(data: DataFolder, papers: int, relations: tuple[str, ...]) -> Table:
    """Papers of the ACM network, drawn once at random, that share an author ("pap") or a subject ("psp")."""
    with np.load(data.file("acm_multiplex/acm.npz"), allow_pickle=False) as arrays:
        n = len(arrays["labels"])
        rows = np.sort(np.random.default_rng(0).permutation(n)[:papers])
        place = np.full(n, -1)
        place[rows] = np.arange(len(rows))
        edges = {}
        for name in relations:
            both = place[arrays[f"edges_{name}"]]
            edges[f"links:{name}"] = both[(both >= 0).all(1)]
        return _table("acm", _words(arrays)[rows], edges, arrays["labels"][rows].astype(np.int64))


def _words(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    parts = tuple(arrays[f"feat_{part}"] for part in ("data", "indices", "indptr"))
    return csr_matrix(parts, shape=tuple(arrays["feat_shape"])).toarray().astype(np.float32)


def _table(name: str, words: np.ndarray, edges: Mapping[str, np.ndarray], labels: np.ndarray) -> Table:
    n = len(words)
    links = {}
    for column, pairs in edges.items():
        one, two = pairs[pairs[:, 0] != pairs[:, 1]].T
        both = coo_matrix((np.ones(2 * len(one)), (np.append(one, two), np.append(two, one))), shape=(n, n))
        rows = both.tocsr()  # in which a pair that comes twice is one entry
        links[column] = [rows.indices[rows.indptr[i] : rows.indptr[i + 1]].astype(np.int64) for i in range(n)]
    kinds = {"vector": Vector, "label": Label, **dict.fromkeys(links, Links)}
    return Table.from_columns(
        {"vector": list(words), "label": labels.tolist(), **links}, kinds=kinds, name=name
    )
