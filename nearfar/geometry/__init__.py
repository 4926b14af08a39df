"""Scores between embeddings."""

from nearfar.geometry.cones import entails, exterior_angle, half_aperture
from nearfar.geometry.lorentz import (
    lorentz_exp0,
    lorentz_inner,
    lorentz_log0,
    lorentz_time,
    negative_lorentz_distance,
)
from nearfar.geometry.named import ON_SPHERE, SCORES
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
from nearfar.geometry.volume import gram_volume, negative_pair_volume, negative_volumes

__all__ = [
    "ON_SPHERE",
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
    "gram_volume",
    "half_aperture",
    "lorentz_exp0",
    "lorentz_inner",
    "lorentz_log0",
    "lorentz_time",
    "negative_lorentz_distance",
    "negative_pair_volume",
    "negative_squared_distance",
    "negative_volumes",
    "pair_distance",
    "unit_rows",
]
