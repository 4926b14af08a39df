"""What is left of earlier tasks: average, forgetting and backward transfer of a matrix of accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nearfar.errors import ArgumentError
from nearfar.measures.measurement import Measurement


@dataclass(frozen=True)
class Continual:
    """A matrix of accuracies in three numbers.

    Attributes:
        average: over the tasks, at the end.
        forgetting: how far earlier tasks have fallen from their best, on average.
        backward_transfer: how far earlier tasks have moved since they were learned, on average.
    """

    average: float
    forgetting: float
    backward_transfer: float


def continual_matrix(accuracy: ArrayLike) -> Continual:
    """Sum up a_tj, the accuracy on task j after learning task t.

        average           = 1/T     sum_j a_Tj
        forgetting        = 1/(T-1) sum_{j<T} ( max_{j<=t<T} a_tj - a_Tj )
        backward transfer = 1/(T-1) sum_{j<T} ( a_Tj - a_jj )

    Forgetting below 0 means that earlier tasks have become better than they ever were. After one task there is
    nothing to forget, and the last two are 0.

    Chaudhry, Dokania, Ajanthan, Torr. "Riemannian Walk for Incremental Learning." ECCV 2018 (forgetting);
    Lopez-Paz, Ranzato. "Gradient Episodic Memory for Continual Learning." NeurIPS 2017 (backward transfer).

    Args:
        accuracy: [T, T]; only entries with j <= t are read.

    Raises:
        ArgumentError: the matrix is not square, or an entry that is read is not finite.
    """
    a = np.asarray(accuracy, dtype=np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not len(a):
        raise ArgumentError(f"a matrix of tasks is square, not of shape {a.shape}")
    if not np.isfinite(a[np.tril_indices(len(a))]).all():
        raise ArgumentError("the accuracy of every task after itself and all later ones must be finite")
    earlier = range(len(a) - 1)
    falls = [a[j:-1, j].max() - a[-1, j] for j in earlier]
    moves = [a[-1, j] - a[j, j] for j in earlier]
    return Continual(
        float(a[-1].mean()), float(np.mean(falls)) if falls else 0.0, float(np.mean(moves)) if moves else 0.0
    )


def square(triangle: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of growing length as a matrix [T, T]; what was not measured is NaN."""
    matrix = np.full((len(triangle), len(triangle)), np.nan)
    for number, row in enumerate(triangle):
        matrix[number, : len(row)] = row
    return matrix


def continual_measurements(figures: Mapping[str, Sequence[Sequence[float]]], n: int) -> list[Measurement]:
    """The three numbers of each figure, as measurements.

    Args:
        figures: name -> after each task, the figure of every task so far.
        n: held-out rows of all tasks.
    """
    found = []
    for name, triangle in figures.items():
        summed, tasks = continual_matrix(square(triangle)), len(triangle)
        found += [
            Measurement(
                f"average/{name}", summed.average, n, "higher", f"mean over {tasks} tasks after the last"
            ),
            Measurement(
                f"forgetting/{name}",
                summed.forgetting,
                n,
                "lower",
                "mean fall of earlier tasks from their best",
            ),
            Measurement(
                f"backward_transfer/{name}",
                summed.backward_transfer,
                n,
                "higher",
                "mean change of earlier tasks since they were learned",
            ),
        ]
    return found
