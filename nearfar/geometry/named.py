"""The scores that a space, a search index and an objective know by name."""

from __future__ import annotations

from nearfar.geometry.lorentz import negative_lorentz_distance
from nearfar.geometry.scores import Score, cosine, dot, negative_squared_distance

SCORES: dict[str, Score] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": negative_squared_distance,
    "lorentz": negative_lorentz_distance,
}
"""Name -> score. "lorentz": of points of curvature -1, given by their space components."""
