"""Scores between embeddings."""

from nearfar.geometry.rows import at_least_float32, finite_rows, unit_rows
from nearfar.geometry.scores import SCORES, Score, cosine, dot, negative_squared_distance, pair_distance

__all__ = [
    "SCORES",
    "Score",
    "at_least_float32",
    "cosine",
    "dot",
    "finite_rows",
    "negative_squared_distance",
    "pair_distance",
    "unit_rows",
]
