"""How many directions an embedding uses: spectrum, effective rank, isotropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import ArgumentError
from nearfar.measures.rows import BLOCK_CELLS, Embeddings, as_rows, unit_rows


@dataclass(frozen=True)
class Spectrum:
    """Spectra of an embedding matrix [N, d], largest first, min(N, d) values each.

    Attributes:
        singular_values: of the matrix as given (not centred).
        eigenvalues: of its covariance (centred, divided by N).
        effective_rank: exp(-sum_k p_k log p_k) with p = eigenvalues / their sum, between 1 and
            min(N - 1, d); 0 when all rows are equal.
    """

    singular_values: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    effective_rank: float


def spectrum(x: Embeddings) -> Spectrum:
    """Singular values, covariance eigenvalues and effective rank of the rows as given, not scaled.

    Effective rank: Roy, Vetterli. "The effective rank: a measure of effective dimensionality." EUSIPCO
    2007, on the covariance eigenvalues. Sums are in float64, from a Gram matrix of the smaller side.

    Args:
        x: [N, d].

    Raises:
        ArgumentError: a row is not finite.
    """
    rows = as_rows(x, "x")
    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    if n <= d:
        singular = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
        eigenvalues = np.linalg.svd(rows - mean, compute_uv=False) ** 2 / n
    else:
        covariance = np.zeros((d, d))
        step = max(1, BLOCK_CELLS // (2 * d))
        for start in range(0, n, step):
            centred = rows[start : start + step] - mean
            covariance += centred.T @ centred / n
        eigenvalues = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
        second_moment = covariance + np.outer(mean, mean)
        singular = np.sqrt(n * np.linalg.eigvalsh(second_moment)[::-1].clip(min=0))
    return Spectrum(singular, eigenvalues, _effective_rank(eigenvalues, float(np.sum(singular**2)) / n))


def _effective_rank(eigenvalues: NDArray[np.float64], mean_square: float) -> float:
    variance = float(eigenvalues.sum())
    # Below float32 resolution the spectrum is that of rounding errors, which looks full rank.
    if variance <= np.finfo(np.float32).eps ** 2 * mean_square:
        return 0.0
    shares = eigenvalues[eigenvalues > 0] / variance
    return float(np.exp(-np.sum(shares * np.log(shares))))


def isotropy(x: Embeddings) -> float:
    """1 - mean_{i != j} cos(x_i, x_j); the mean cosine itself (1 - isotropy) is called anisotropy.

    Closed form in O(N d) on unit rows: mean cosine = (|sum_i x_i|^2 - sum_i |x_i|^2) / (N (N - 1)).
    Rows of all texts are pooled; it is not a mean over texts. 0 when all rows agree, 1 when directions
    cancel. Ethayarajh. "How Contextual are Contextualized Word Representations?" EMNLP 2019.

    Args:
        x: [N, d] with N >= 2.

    Raises:
        ArgumentError: fewer than two rows, or a row is not finite or zero.
    """
    rows = unit_rows(x, "x")
    n = len(rows)
    if n < 2:
        raise ArgumentError("isotropy needs at least two rows")
    total = rows.sum(axis=0, dtype=np.float64)
    own = float(np.einsum("nd,nd->", rows, rows, dtype=np.float64))
    return 1 - (float(total @ total) - own) / (n * (n - 1))
