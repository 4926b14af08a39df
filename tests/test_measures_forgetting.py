"""Average, forgetting and backward transfer of a matrix of tasks."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.measures.forgetting import continual_matrix, continual_measurements, square

TRIANGLE = [[0.9], [0.7, 0.8], [0.75, 0.9, 0.6]]


def test_the_three_numbers_of_three_tasks() -> None:
    """By hand: task 1 falls 0.9 -> 0.75; task 2 has just reached its best, 0.1 above what it was before."""
    found = continual_matrix(square(TRIANGLE))
    assert found.average == pytest.approx((0.75 + 0.9 + 0.6) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.75) + (0.8 - 0.9)) / 2)
    assert found.backward_transfer == pytest.approx(((0.75 - 0.9) + (0.9 - 0.8)) / 2)


def test_forgetting_is_from_the_best_and_transfer_from_the_first() -> None:
    rises_first = [[0.5], [0.9, 0.8], [0.6, 0.8, 0.7]]
    found = continual_matrix(square(rises_first))
    assert found.forgetting == pytest.approx(0.15)  # (0.9 - 0.6 + 0) / 2
    assert found.backward_transfer == pytest.approx(0.05)  # (0.6 - 0.5 + 0) / 2


def test_what_lies_above_the_diagonal_is_not_read_and_one_task_forgets_nothing() -> None:
    matrix = square(TRIANGLE)
    assert np.isnan(matrix[0, 1:]).all()
    filled = np.where(np.isnan(matrix), 99.0, matrix)
    assert continual_matrix(filled) == continual_matrix(matrix)
    alone = continual_matrix([[0.4]])
    assert (alone.average, alone.forgetting, alone.backward_transfer) == (0.4, 0.0, 0.0)


def test_every_figure_gives_three_measurements_with_their_direction() -> None:
    found = {m.name: m for m in continual_measurements({"knn_accuracy": TRIANGLE}, 30)}
    assert [(name, m.better) for name, m in found.items()] == [
        ("average/knn_accuracy", "higher"),
        ("forgetting/knn_accuracy", "lower"),
        ("backward_transfer/knn_accuracy", "higher"),
    ]
    assert found["average/knn_accuracy"].value == pytest.approx(0.75)
    assert {m.n for m in found.values()} == {30}


@pytest.mark.parametrize(
    ("matrix", "message"),
    [([[0.1, 0.2]], "square"), (np.zeros((0, 0)), "square"), ([[0.5, 0.0], [np.nan, 0.5]], "finite")],
)
def test_what_is_no_such_matrix_is_refused(matrix: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        continual_matrix(matrix)  # type: ignore[arg-type]
