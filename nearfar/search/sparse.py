"""An exact index of codes that are nearly all zeros: inverted lists, kept as plain files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse

from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_folder, fingerprint_of_file, read_json, write_json
from nearfar.search.index import Geometry, searchable
from nearfar.search.ranking import best_first
from nearfar.version import __version__

FORMAT = 1
INNER_PRODUCTS = ("cosine", "dot")
"""Geometries whose score is a sum over latents that both rows have."""
_BLOCK = 1024
"""Queries whose scores are in memory together."""


class SparseIndex:
    """N codes that can be searched by inner product; work and memory follow the entries that are not zero.

    For every latent there is a list of the rows that have it, so that a query looks only at rows that share a
    latent with it. Answers are those of `Index`: products are summed in float64, equal scores come in the
    order of rows, and rows that share nothing score 0.

    Args:
        codes: [N, h], N >= 1, nearly all zeros. With "cosine" they are scaled to unit length.
        geometry: "cosine" or "dot".

    Raises:
        ArgumentError: the geometry is neither, the shape is wrong, or a row is not finite (with "cosine":
            all zeros); the row is named.
    """

    def __init__(self, codes: np.ndarray, geometry: Geometry = "cosine") -> None:
        self._hold(_lists([searchable(codes, geometry, "codes")]), geometry, {})

    @classmethod
    def of_blocks(
        cls, blocks: Iterable[np.ndarray], geometry: Geometry, made_from: Mapping[str, str] | None = None
    ) -> Self:
        """An index of blocks [n, h] as `searchable` returned them, of which one at a time is dense in memory."""
        index = cls.__new__(cls)
        index._hold(_lists(blocks), geometry, made_from or {})
        return index

    def _hold(self, lists: sparse.csr_array, geometry: Geometry, made_from: Mapping[str, str]) -> None:
        if geometry not in INNER_PRODUCTS:
            raise ArgumentError("inverted lists give inner products: the geometry must be cosine or dot")
        self.lists, self.geometry, self.made_from = lists, geometry, dict(made_from)

    def __len__(self) -> int:
        return int(self.lists.shape[1])

    def __repr__(self) -> str:
        held = self.lists.nnz / len(self)
        return (
            f"SparseIndex({len(self):,} x {self.lists.shape[0]}, {held:.1f} entries a row, {self.geometry})"
        )

    @property
    def bytes(self) -> int:
        """What the lists take in memory: rows, values, and where each list begins."""
        return int(self.lists.data.nbytes + self.lists.indices.nbytes + self.lists.indptr.nbytes)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first; equal scores in the order of rows.

        Args:
            queries: [Q, h].
            k: how many; at most N are given.

        Returns:
            Scores float32 [Q, k] and rows int64 [Q, k].

        Raises:
            ArgumentError: k is below 1, the width differs, or a query is not finite (with "cosine": all
                zeros).
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        asked = searchable(queries, self.geometry, "queries", at_least=0)
        if asked.shape[1] != self.lists.shape[0]:
            raise ArgumentError(f"queries are {asked.shape[1]} wide, the index holds {self.lists.shape[0]}")
        k = min(k, len(self))
        scores, ids = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
        for start in range(0, len(asked), _BLOCK):
            # Products of two float32 numbers are exact in float64.
            block = sparse.csr_array(asked[start : start + _BLOCK], dtype=np.float64) @ self.lists
            for row in range(block.shape[0]):
                part = slice(block.indptr[row], block.indptr[row + 1])
                scores[start + row], ids[start + row] = self._best(block.data[part], block.indices[part], k)
        return scores, ids

    def _best(self, values: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        values = values.astype(np.float32)
        if np.count_nonzero(values > 0) < k:  # rows that share no latent, at 0, are among the best
            everywhere = np.zeros(len(self), dtype=np.float32)
            everywhere[rows] = values
            values, rows = everywhere, np.arange(len(self))
        best, found = best_first(torch.from_numpy(values)[None], torch.from_numpy(rows.astype(np.int64)), k)
        return best[0].numpy(), found[0].numpy()

    def save(self, folder: Path | str) -> Path:
        """Write index.json and three arrays. The folder appears whole or not at all.

        Raises:
            ArtefactError: the folder exists already.
        """
        with atomic_folder(folder) as temporary:
            self.write(temporary)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder (the caller makes that atomic)."""
        prints = {}
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self.lists, name), allow_pickle=False)
            prints[name] = fingerprint_of_file(folder / f"{name}.npy")
        description = {
            "format": FORMAT,
            "nearfar": __version__,
            "kind": "sparse",
            "geometry": self.geometry,
            "shape": [len(self), int(self.lists.shape[0])],
            "fingerprints": prints,
            "made_from": self.made_from,
        }
        write_json(folder / "index.json", description)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: the folder is incomplete, altered or of another format.
        """
        folder = Path(folder)
        told: Any = read_json(folder / "index.json")
        try:
            if (told["kind"], told["format"]) != ("sparse", FORMAT) or told["geometry"] not in (
                "cosine",
                "dot",
            ):
                raise ValueError("not a sparse index of a format that this nearfar reads")
            for name in _ARRAYS:
                if fingerprint_of_file(folder / f"{name}.npy") != told["fingerprints"][name]:
                    raise ValueError(f"{name}.npy was changed after it was saved")
            arrays = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS]
            rows, width = told["shape"]
            lists = sparse.csr_array(tuple(arrays), shape=(width, rows))
            lists.check_format()
            index = cls.__new__(cls)
            index._hold(lists, told["geometry"], told["made_from"])
        except (KeyError, TypeError, ValueError, OSError) as broken:
            raise ArtefactError(
                f"{folder} cannot be read as a sparse index ({broken}): build it again"
            ) from None
        return index


_ARRAYS = ("data", "indices", "indptr")
"""What a matrix of inverted lists is made of, as scipy names it."""


def _lists(blocks: Iterable[np.ndarray]) -> sparse.csr_array:
    """Blocks of codes [n, h] as lists of rows for each latent, [h, N]."""
    return sparse.vstack([sparse.csr_array(block) for block in blocks], format="csr").T.tocsr()
