"""The scores that a space, a search index and an objective know by name."""

from __future__ import annotations

from nearfar.geometry.lorentz import negative_lorentz_distance
from nearfar.geometry.scores import Score, cosine, dot, negative_squared_distance
from nearfar.geometry.volume import negative_pair_volume

SCORES: dict[str, Score] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": negative_squared_distance,
    "lorentz": negative_lorentz_distance,
    "gram": negative_pair_volume,
}
"""Name -> score. "lorentz": of points of curvature -1, given by their space components. "gram": blind to signs."""
ON_SPHERE = ("cosine", "gram")
"""Those that look at directions only: embeddings are kept at length one."""
