"""Every measure that a table of embeddings allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nearfar.data.kinds import Audio, Image, Text
from nearfar.errors import ArgumentError
from nearfar.measures.applied import (
    Embedded,
    across,
    clusters_of,
    labels_of,
    pairs_of,
    retrieval_of,
    scores_of,
    spread_of,
    triplets_of,
    volume_of,
)
from nearfar.measures.identity import identities
from nearfar.measures.measurement import Better, Measurement, left_out, mean_over, named
from nearfar.measures.rows import as_rows, unit_rows
from nearfar.measures.transcripts import transcripts_of

PRIMARY = ("character_error", "sts", "mrr@10", "knn_accuracy", "triplet_accuracy", "uniformity")
"""The measures that training may watch, the most telling first."""
RECORD = "record"
"""The role of what other roles of a row were fused into: nobody's partner, since each is part of it."""


def measure_embeddings(
    z: Mapping[str, Any],
    columns: Mapping[str, Sequence[Any]],
    *,
    identity: Mapping[str, Sequence[Any]] | None = None,
    modalities: Mapping[str, str] | None = None,
    seed: int = 0,
    geometry: str = "cosine",
) -> dict[str, Measurement]:
    """Take every measure that these embeddings and columns allow.

    The anchor is the first role of `z` that is not "positive" or "negative"; every other role but
    "negative" and "record" is its partner, row by row.

    - always, for each modality: uniformity, effective rank, isotropy, hubness, collapse;
    - anchor and partner: alignment, mean cosine, retrieval (both ways between modalities), modality gap;
    - with a column "score": STS instead of retrieval, and alignment on the pairs of high score only;
    - with a column "label": kNN and logistic probes in cross-validation (a column "group" keeps rows
      together), k-means;
    - with a column "transcript" of pairs (said, heard): character and word error;
    - with a column "cluster", the clusters of the space itself: how many are used, and how well they match labels;
    - with a role "negative" and a partner: triplet accuracy.

    What does not apply is said in measurements named "left_out/...".

    Args:
        z: role -> [N, d], row-aligned.
        columns: role -> N cells, for the roles "label", "score", "group", "cluster" and "transcript".
        identity: role of `z` -> N raw cells. Equal cells are one thing: one row of the spread measures, one
            query, one key with several right answers, one side of a fold.
        modalities: role -> modality. Left out, it is the kind of the raw cells where `identity` has texts or
            pictures; else "positive" and "negative" are of the anchor's, any other role is one of its own.
        seed: of all samples and folds.
        geometry: that of the space: retrieval, STS and triplets go by it; in "lorentz" the radius is added, in
            "gram" the volume of all roles; all else is told of directions.

    Raises:
        ArgumentError: no role, too few rows, lengths differ, or a bad row (role and row are named).
    """
    roles = _embedded(z, identity or {}, modalities or {}, geometry)
    anchor, partners = _anchor_and_partners(roles)
    n = len(anchor.rows)
    for name, column in columns.items():
        if len(column) != n:
            raise ArgumentError(f"column {name!r} has {len(column)} rows, the embeddings have {n}")
    leaders: dict[str, Embedded] = {}
    fused = [roles[RECORD]] if RECORD in roles and roles[RECORD] is not anchor else []
    for role in (anchor, *partners, *fused):
        leaders.setdefault(role.modality, role)
    found: list[Measurement] = []
    for leader in leaders.values():
        found += named(spread_of(leader, seed), leader.role if len(leaders) > 1 else "")
    pairs = np.arange(n)
    if partners and "score" in columns:
        measured, pairs = scores_of(anchor, partners[0], columns["score"])
        found += measured
    if len(pairs):
        found += mean_over([(p.role, pairs_of(anchor, p, pairs, seed)) for p in partners])
    if partners and "score" not in columns:
        ways = [(anchor, p) for p in partners] + [(p, anchor) for p in partners if across(anchor, p)]
        found += mean_over([(f"{a.role}-to-{b.role}", retrieval_of(a, b, seed)) for a, b in ways])
    if geometry == "gram" and partners:
        found.append(volume_of([anchor, *partners]))
    if "negative" in roles:
        found += triplets_of(anchor, partners, roles["negative"])
    if "label" in columns:
        for leader in leaders.values():
            taken = labels_of(leader, columns["label"], columns.get("group"), seed)
            found += named(taken, leader.role if len(leaders) > 1 else "")
    if "transcript" in columns:
        found += transcripts_of(columns["transcript"])
    if "cluster" in columns:
        found += clusters_of(columns["cluster"], columns.get("label"))
    read = {"label", "group", "transcript", "cluster", *(["score"] if partners else [])}
    unread = sorted(set(columns) - read)
    if unread:
        found.append(left_out("columns", len(unread), n, f"no measure here reads {', '.join(unread)}"))
    return {measurement.name: measurement for measurement in found}


def primary_measure(measurements: Mapping[str, Measurement]) -> str:
    """The name of the measurement that training watches: the first of `PRIMARY` that was taken.

    Raises:
        ArgumentError: none of them was taken.
    """
    for wanted in PRIMARY:
        for name in measurements:
            if name == wanted or name.startswith(f"{wanted}/"):
                return name
    raise ArgumentError(f"none of {', '.join(PRIMARY)} was measured: name the measure to watch")


def _embedded(
    z: Mapping[str, Any],
    identity: Mapping[str, Sequence[Any]],
    modalities: Mapping[str, str],
    geometry: str,
) -> dict[str, Embedded]:
    first = next((role for role in z if role not in ("positive", "negative")), None)
    if first is None:
        raise ArgumentError(
            f"embeddings of an anchor role (such as text or image) are needed, got {sorted(z)}"
        )
    shape = as_rows(z[first], f"embeddings of {first!r}").shape
    roles = {}
    for role, matrix in z.items():
        name = f"embeddings of {role!r}"
        rows = as_rows(matrix, name)
        n = len(rows)
        if rows.shape != shape or n < 2:
            raise ArgumentError(
                f"{name} must be two rows or more of the shape of {first!r}, got {rows.shape}"
            )
        cells = identity.get(role)
        if cells is not None and len(cells) != n:
            raise ArgumentError(f"identity of {role!r} has {len(cells)} cells for {n} rows")
        modality = modalities.get(role) or _modality(role, first, identity)
        ids = np.arange(n) if cells is None else identities(cells)
        roles[role] = Embedded(role, modality, rows, unit_rows(rows, name), ids, geometry)
    return roles


def _modality(role: str, first: str, identity: Mapping[str, Sequence[Any]]) -> str:
    """The kind of the raw cells, or the role: vectors of one kind may come from two sensors."""
    for source in (role, first) if role in ("positive", "negative") else (role,):
        for kind in (Text, Image, Audio):
            if source in identity and kind.holds(identity[source][0]):
                return kind.name
    return first if role in ("positive", "negative") else role


def _anchor_and_partners(roles: Mapping[str, Embedded]) -> tuple[Embedded, list[Embedded]]:
    anchor = next(role for name, role in roles.items() if name not in ("positive", "negative"))
    return anchor, [
        role for role in roles.values() if role is not anchor and role.role not in ("negative", RECORD)
    ]


__all__ = ["PRIMARY", "Better", "Measurement", "measure_embeddings", "primary_measure"]
