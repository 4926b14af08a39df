"""Scores between embeddings."""

from nearfar.geometry.cones import entails, exterior_angle, half_aperture
from nearfar.geometry.lorentz import (
    lorentz_exp0,
    lorentz_inner,
    lorentz_log0,
    lorentz_time,
    negative_lorentz_distance,
)
from nearfar.geometry.named import SCORES
from nearfar.geometry.rows import at_least_float32, finite_rows, unit_rows
from nearfar.geometry.scores import (
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
    "entails",
    "euclidean_factors",
    "exterior_angle",
    "finite_rows",
    "half_aperture",
    "lorentz_exp0",
    "lorentz_inner",
    "lorentz_log0",
    "lorentz_time",
    "negative_lorentz_distance",
    "negative_squared_distance",
    "pair_distance",
    "unit_rows",
]
