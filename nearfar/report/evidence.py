"""What the pictures of a measure page are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nearfar.measures.applied import POSITIVE_SHARE
from nearfar.measures.hubness import Hubness, hubness
from nearfar.measures.identity import identities
from nearfar.measures.maps import pca_map, positive_negative_cosines
from nearfar.measures.spread import spectrum

_SIDES = ("positive", "negative")
"""Roles that share the anchor's encoder, so that pictures of their spread would repeat its own."""


@dataclass(frozen=True)
class Evidence:
    """Arrays behind the pictures of one state of a space.

    Attributes:
        cosines: of positives and of random pairs; None without pairs.
        spectra: role -> singular values, largest first.
        hubs: role -> how often each row is a near neighbour.
        places: rows in the plane, [M, 2]; None where there are fewer than three rows.
        labels: names of the classes (or roles) of these rows, or None.
        texts: what these rows say, or None.
    """

    cosines: tuple[np.ndarray, np.ndarray] | None = None
    spectra: Mapping[str, np.ndarray] = field(default_factory=dict)
    hubs: Mapping[str, Hubness] = field(default_factory=dict)
    places: np.ndarray | None = None
    labels: Sequence[str] | None = None
    texts: Sequence[str] | None = None


def gather_evidence(
    z: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[Any]],
    cells: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
) -> Evidence:
    """Take the arrays for the pictures from embeddings; the arguments are those of `measure_embeddings`.

    Args:
        z: role -> [N, d], row-aligned; the first role that is not "positive" or "negative" is the anchor.
        columns: role -> N cells ("label", "score").
        cells: role -> N raw cells of embedded roles; rows with equal cells count once in spectra and hubs.
        seed: of samples.
    """
    cells = cells or {}
    own = [role for role in z if role not in _SIDES]
    partner = next((role for role in z if role not in (own[0], "negative")), None)
    kept = {role: _different(z[role], cells.get(role)) for role in own}
    spread = {role: rows for role, rows in kept.items() if len(rows) > 1}
    coordinates, labels, texts = _map(z, own, columns, cells, seed)
    return Evidence(
        cosines=None if partner is None else _cosines(z[own[0]], z[partner], columns.get("score"), seed),
        spectra={role: spectrum(rows).singular_values for role, rows in spread.items()},
        hubs={role: hubness(rows, k=min(10, len(rows) - 1), seed=seed) for role, rows in spread.items()},
        places=coordinates,
        labels=labels,
        texts=texts,
    )


def _different(rows: np.ndarray, cells: Sequence[Any] | None) -> np.ndarray:
    return rows if cells is None else rows[np.sort(np.unique(identities(cells), return_index=True)[1])]


def _cosines(
    anchor: np.ndarray, partner: np.ndarray, scores: Sequence[Any] | None, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    if scores is not None:
        given = np.asarray(scores, dtype=np.float64)
        near = given >= POSITIVE_SHARE * given.max() if np.ptp(given) > 0 else np.ones(len(given), dtype=bool)
        anchor, partner = anchor[near], partner[near]
    return None if len(anchor) < 2 else positive_negative_cosines(anchor, partner, seed=seed)


def _map(
    z: Mapping[str, np.ndarray],
    own: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    cells: Mapping[str, Sequence[Any]],
    seed: int,
) -> tuple[np.ndarray | None, list[str] | None, list[str] | None]:
    rows = np.concatenate([z[role] for role in own])
    if len(rows) < 3:
        return None, None, None
    places, taken = pca_map(rows, seed)
    role_of, row_of = np.divmod(taken, len(z[own[0]]))
    labels = texts = None
    if len(own) > 1:
        labels = [own[role] for role in role_of]
    elif "label" in columns:
        labels = [str(columns["label"][row]) for row in row_of]
    if all(isinstance(cells[role][0], str) for role in own if role in cells) and set(own) & set(cells):
        texts = [
            str(cells[own[role]][row]) if own[role] in cells else f"{own[role]}, row {row + 1}"
            for role, row in zip(role_of, row_of, strict=True)
        ]
    return places, labels, texts
