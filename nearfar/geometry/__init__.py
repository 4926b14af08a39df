"""Scores between embeddings."""

from nearfar.geometry.lorentz import lorentz_inner, negative_lorentz_distance
from nearfar.geometry.rows import at_least_float32, finite_rows, unit_rows
from nearfar.geometry.scores import (
    SCORES,
    Score,
    ScoreName,
    cosine,
    dot,
    euclidean_factors,
    negative_squared_distance,
    pair_distance,
)

__all__ = [
    "SCORES",
    "Score",
    "ScoreName",
    "at_least_float32",
    "cosine",
    "dot",
    "euclidean_factors",
    "finite_rows",
    "lorentz_inner",
    "negative_lorentz_distance",
    "negative_squared_distance",
    "pair_distance",
    "unit_rows",
]
