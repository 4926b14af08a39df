"""An index of embeddings: the nearest rows to a query, exact or approximate, kept as two plain files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, fingerprint_of_file, read_json, write_json
from nearfar.geometry import ON_SPHERE, SCORES, finite_rows, lorentz_time, unit_rows
from nearfar.search.ranking import best_first
from nearfar.version import __version__

Geometry = str
"""A name of `nearfar.geometry.SCORES`."""
FORMAT = 1

_SPARE = 16
"""Candidates fetched beyond k before the final scores are computed."""
_LINKS, _EFFORT = 32, 128
"""HNSW: links of a node, and candidates kept while searching."""
_GATHERED = 1 << 23
"""Numbers gathered at once when candidates are scored."""
_SAMPLE, _RECALL_AT = 256, 10


class Index:
    """N embeddings that can be searched.

    Scores are those of `nearfar.geometry.SCORES`: higher is nearer; "euclidean" is minus the squared
    distance, "lorentz" minus the hyperbolic one, "gram" minus the area that two directions span. faiss finds
    the candidates; their scores are then summed in float64, so that equal rows tie exactly and an answer does
    not depend on which queries were asked together.

    Args:
        vectors: [N, d], N >= 1. With "cosine" and "gram" they are scaled to unit length, with "lorentz" they get their
            time component as a last column.
        geometry: a name of `nearfar.geometry.SCORES`.
        approximate: search a graph (HNSW) in place of all rows: faster for large N, may miss rows; see
            `recall`. Not with "lorentz" and "gram".

    Raises:
        ArgumentError: the geometry is unknown or has no approximate search, the shape is wrong, or a row is
            not finite (with "cosine": all zeros); the row is named.
    """

    def __init__(
        self, vectors: np.ndarray, geometry: Geometry = "cosine", *, approximate: bool = False
    ) -> None:
        self._hold(searchable(vectors, geometry, "vectors"), geometry, approximate, {})

    @classmethod
    def of_searchable(
        cls,
        vectors: np.ndarray,
        geometry: Geometry,
        approximate: bool = False,
        made_from: Mapping[str, str] | None = None,
    ) -> Self:
        """An index of rows as `searchable` returned them: they are neither checked nor scaled again."""
        index = cls.__new__(cls)
        index._hold(vectors, geometry, approximate, made_from or {})
        return index

    def _hold(
        self, vectors: np.ndarray, geometry: Geometry, approximate: bool, made_from: Mapping[str, str]
    ) -> None:
        if approximate and geometry in ("lorentz", "gram"):
            raise ArgumentError(
                f"a graph cannot be built with geometry {geometry!r}: approximate must be False"
            )
        self.vectors, self.geometry, self.approximate = vectors, geometry, approximate
        self.made_from = dict(made_from)
        self._graph = _graph(vectors, geometry) if approximate else None

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        kind = f"approximate, recall@{_RECALL_AT} {self.recall:.3f}" if self.approximate else "exact"
        return f"Index({len(self):,} x {self.vectors.shape[1]}, {self.geometry}, {kind})"

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first; equal scores in the order of rows.

        Args:
            queries: [Q, d].
            k: how many; at most N are given.

        Returns:
            Scores float32 [Q, k] and rows int64 [Q, k]. An approximate index that found fewer fills with
            row -1 and score -inf.

        Raises:
            ArgumentError: k is below 1, the width differs, or a query is not finite (with "cosine": all
                zeros).
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        asked = searchable(queries, self.geometry, "queries", at_least=0)
        if asked.shape[1] != self.vectors.shape[1]:
            held = self.vectors.shape[1] - asked.shape[1] + np.shape(queries)[1]
            raise ArgumentError(f"queries are {np.shape(queries)[1]} wide, the index holds {held}")
        k = min(k, len(self))
        scores, ids = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
        open_rows, fetch = np.arange(len(asked)), min(len(self), k + _SPARE)
        while len(open_rows):
            bounds, found = self._candidates(asked[open_rows], fetch)
            scores[open_rows], ids[open_rows] = self._ranked(asked[open_rows], found, k)
            if fetch == len(self) or self.approximate:
                break
            # Beyond the candidates lie only rows that faiss scored below `bounds`, up to rounding.
            unsure = scores[open_rows, -1] <= self._score(bounds + self._rounding(asked[open_rows]))
            open_rows, fetch = open_rows[unsure], min(len(self), 4 * fetch)
        return scores, ids

    @cached_property
    def recall(self) -> float:
        """Share of the true 10 nearest that is found, over up to 256 of the index's own rows; exact: 1.

        Queries of another kind than the rows (texts for pictures) can fare worse.
        """
        if not self.approximate or len(self) == 1:
            return 1.0
        rows = np.random.default_rng(0).permutation(len(self))[:_SAMPLE]
        exact = self.of_searchable(self.vectors, self.geometry)
        k = min(_RECALL_AT, len(self) - 1)
        shares = []
        for row, true, found in zip(
            rows,
            exact.search(self.vectors[rows], k + 1)[1],
            self.search(self.vectors[rows], k + 1)[1],
            strict=True,
        ):
            wanted = set(true[true != row][:k].tolist())
            shares.append(len(wanted & set(found[found != row][:k].tolist())) / k)
        return float(np.mean(shares))

    def _candidates(self, queries: np.ndarray, fetch: int) -> tuple[np.ndarray, np.ndarray]:
        """faiss's score of the last candidate [Q] and all candidates [Q, fetch]."""
        import faiss

        inner = self.geometry != "euclidean"
        if self.geometry == "lorentz":
            queries = np.concatenate([queries[:, :-1], -queries[:, -1:]], axis=1)
        if self._graph is None:
            metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
            # The exact search of IndexFlat, on rows that stay where they are (memory-mapped).
            values, found = faiss.knn(queries, self.vectors, fetch, metric=metric)
        else:
            self._graph.hnsw.efSearch = max(_EFFORT, 2 * fetch)
            values, found = self._graph.search(queries, fetch)
        last = values[:, -1].astype(np.float64)
        if self.geometry == "gram":  # nearest are those of largest |cosine|: look in both directions
            opposite, behind = faiss.knn(-queries, self.vectors, fetch, metric=faiss.METRIC_INNER_PRODUCT)
            last = np.maximum(last, opposite[:, -1].astype(np.float64)).clip(min=0)
            found = np.concatenate(
                [np.where(values < 0, -1, found), np.where(opposite <= 0, -1, behind)], axis=1
            )
        return (last if inner else -last), found

    def _ranked(self, queries: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.empty(found.shape, dtype=np.float32)
        step = max(1, _GATHERED // (found.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            rows = self.vectors[found[part]]
            if self.geometry == "euclidean":
                away = rows - queries[part, None]
                values[part] = -np.einsum("qkd,qkd->qk", away, away, dtype=np.float64)
            elif self.geometry == "lorentz":
                values[part] = _hyperbolic(queries[part, None, :-1], rows[..., :-1])
            elif self.geometry == "gram":
                values[part] = _negative_area(np.einsum("qd,qkd->qk", queries[part], rows, dtype=np.float64))
            else:
                values[part] = np.einsum("qd,qkd->qk", queries[part], rows, dtype=np.float64)
        values[found < 0] = -np.inf
        scores, ids = best_first(torch.from_numpy(values), torch.from_numpy(found), k)
        return scores.numpy(), ids.numpy()

    def _rounding(self, queries: np.ndarray) -> np.ndarray:
        """A bound on how far faiss's float32 scores are off, for each query [Q]."""
        lengths = np.linalg.norm(queries, axis=1).astype(np.float64)
        size = (lengths + self._longest) ** 2 if self.geometry == "euclidean" else lengths * self._longest
        return 8 * np.finfo(np.float32).eps * np.sqrt(queries.shape[1]) * size

    def _score(self, values: np.ndarray) -> np.ndarray:
        """The scores for values as `_candidates` gives them, which are inner products where it searches by these."""
        if self.geometry == "gram":
            return _negative_area(values)
        return -np.arccosh(np.maximum(-values, 1)) if self.geometry == "lorentz" else values

    @cached_property
    def _longest(self) -> float:
        return float(np.sqrt(np.einsum("nd,nd->n", self.vectors, self.vectors).max()))

    def save(self, folder: Path | str) -> Path:
        """Write vectors.npy and index.json. The folder appears whole or not at all.

        Raises:
            ArtefactError: the folder exists already.
        """
        with atomic_folder(folder) as temporary:
            write_index(temporary, [self.vectors], len(self), self.geometry, self.made_from, self.approximate)
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote. Vectors stay on disk (memory-mapped); a graph is built anew.

        Raises:
            ArtefactError: the folder is incomplete, altered or of another format.
        """
        folder = Path(folder)
        told: Any = read_json(folder / "index.json")
        file = folder / "vectors.npy"
        try:
            if told["format"] != FORMAT or told["geometry"] not in SCORES:
                raise ArtefactError(
                    f"{folder} holds an index of format {told['format']!r}, geometry {told['geometry']!r}; "
                    f"this nearfar ({__version__}) reads format {FORMAT}: build the index again"
                )
            if fingerprint_of_file(file) != told["fingerprint"]:
                raise ArtefactError(f"{file} was changed after it was saved: build the index again")
            vectors = np.load(file, mmap_mode="r", allow_pickle=False)
            approximate, made_from = bool(told["approximate"]), told["made_from"]
            index = cls.of_searchable(vectors, told["geometry"], approximate, made_from)
        except (KeyError, TypeError, ValueError, OSError) as broken:
            if isinstance(broken, ArtefactError):
                raise
            raise ArtefactError(f"{folder} cannot be read as an index ({broken}): build it again") from broken
        return index


def searchable(vectors: np.ndarray, geometry: Geometry, name: str, at_least: int = 1) -> np.ndarray:
    """Check rows [N, d] and hand them over as float32.

    With "cosine" and "gram" they are of unit length; with "lorentz" the time component is appended, [N, d + 1], since
    <q, k>_L is the inner product of (q, -q_time) and (k, k_time).

    Raises:
        ArgumentError: as `Index`.
    """
    if geometry not in SCORES:
        raise ArgumentError(f"geometry {geometry!r} is unknown: one of {', '.join(SCORES)}")
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if np.ndim(vectors) != 2 or len(rows) < at_least or rows.shape[1] < 1:
        raise ArgumentError(
            f"{name} must be a matrix with one embedding a row, got shape {np.shape(vectors)}"
        )
    # A memory-mapped array is read-only, which torch would warn about; nothing is written here.
    tensor = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    if geometry in ON_SPHERE:
        return unit_rows(tensor, name).numpy()
    tensor = finite_rows(tensor, name)
    if geometry == "lorentz":
        time = lorentz_time(tensor.double()).float()
        tensor = torch.cat([tensor, finite_rows(time[:, None], f"{name}, time component")], dim=1)
    return tensor.numpy()


def write_index(
    folder: Path,
    blocks: Iterable[np.ndarray],
    n_rows: int,
    geometry: Geometry,
    made_from: Mapping[str, str],
    approximate: bool = False,
) -> None:
    """Write the files of an index into an existing folder, block by block of `searchable` rows.

    Args:
        folder: where; the caller makes that atomic.
        blocks: float32 [n, d], `n_rows` rows in all; only one is in memory at a time.
        n_rows: N.
        geometry: see `Index`.
        made_from: what the rows were computed from, name -> fingerprint or name.
        approximate: see `Index`.
    """
    kept: np.memmap | None = None
    start = 0
    for block in blocks:
        if kept is None:
            kept = np.lib.format.open_memmap(
                folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(n_rows, block.shape[1])
            )
        kept[start : start + len(block)] = block
        start += len(block)
    if kept is None or start != n_rows:
        raise ArgumentError(f"{start} rows were given for an index of {n_rows}")
    kept.flush()
    del kept
    description = {
        "format": FORMAT,
        "nearfar": __version__,
        "geometry": geometry,
        "approximate": approximate,
        "fingerprint": fingerprint_of_file(folder / "vectors.npy"),
        "made_from": dict(made_from),
    }
    write_json(folder / "index.json", description)


def _hyperbolic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minus the distance of points of curvature -1, space components [..., d], by differences.

    cosh(distance) - 1 = (|a - b|^2 - (a_time - b_time)^2) / 2 keeps the digits that 1 + ... would swallow, and equal
    points are at exactly 0.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = [np.einsum("...d,...d->...", x, x) for x in (a, b, a - b)]
    times = [np.sqrt(1 + square) for square in squares[:2]]
    between = squares[2] - ((squares[0] - squares[1]) / (times[0] + times[1])) ** 2
    scores: np.ndarray = -2 * np.arcsinh(np.sqrt(np.maximum(between, 0)) / 2)
    return scores


def _negative_area(cosines: np.ndarray) -> np.ndarray:
    """-sqrt(1 - cos^2), with the floor that `nearfar.geometry.negative_pair_volume` has in float64."""
    area: np.ndarray = np.sqrt(np.maximum(1 - cosines**2, 1e-12))
    return -area


def _graph(vectors: np.ndarray, geometry: Geometry) -> Any:
    import faiss

    metric = faiss.METRIC_L2 if geometry == "euclidean" else faiss.METRIC_INNER_PRODUCT
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, metric)
    graph.hnsw.efConstruction = _EFFORT
    graph.add(np.ascontiguousarray(vectors))
    return graph
