"""`detect`: which rows of a table are foreign to what a space was fitted to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import atomic_file
from nearfar.heads.detectors import Detector
from nearfar.measures.ood import OODResult, ood_metrics
from nearfar.report.tables import number
from nearfar.report.tables import table as aligned
from nearfar.space import Space

SHOWN = 10
"""Rows that are printed for people: the most foreign ones."""


@dataclass(frozen=True)
class Detection:
    """Every row of a table with how much it is at home.

    Attributes:
        rows: numbers of the rows as the file counts them [N].
        scores: [N]; higher is more at home.
        threshold: 95% of the rows that the detector was fitted to reach it.
        against: how well the scores tell the table from another one; None without such a table.
    """

    rows: list[int]
    scores: np.ndarray
    threshold: float
    against: OODResult | None = None

    @property
    def foreign(self) -> np.ndarray:
        """Whether each row is below the threshold, bool [N]."""
        return np.asarray(self.scores < self.threshold)


def detect(
    space: Space | Path | str,
    table: Table | Path | str,
    *,
    out: Path | str | None = None,
    against: Table | Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    batch_size: int = 64,
    overwrite: bool = False,
) -> Detection:
    """Score every row of a table by the detector of a space: higher is more at home, below the threshold foreign.

    Args:
        space: a space with a detector, or its folder.
        table: a table or its source.
        out: a CSV file for row, score, threshold and foreign (yes or no), one line a row; None writes none.
        against: a table of rows known to be foreign; figures say how well the two are told apart.
        columns: role -> column, where names do not tell; for both tables.
        on_bad_row: "error" or "skip".
        batch_size: rows encoded at once.
        overwrite: replace `out` where it exists.

    Raises:
        ArgumentError: the space has no detector, or the table nothing that the space reads.
        ArtefactError: `out` exists already.
    """
    if out is not None and Path(out).exists() and not overwrite:
        raise ArtefactError(f"{out} exists already: choose another file, or pass --overwrite")
    name = "this space" if isinstance(space, Space) else str(space)
    if not isinstance(space, Space):
        space = Space.load(space)
    detector = space.parts.get("detector")
    if not isinstance(detector, Detector):
        raise ArgumentError(
            f"{name} has no detector: fit one on labelled rows with "
            "`nearfar fit wdiscood TABLE --out NEW --encoder ENCODER`, where ENCODER may be the folder of an "
            "encoder inside a space, such as SPACE/image, and detect with NEW"
        )
    rows, scores = _scored(space, detector, table, columns, on_bad_row, batch_size)
    result = None
    if against is not None:
        _, foreign = _scored(space, detector, against, columns, on_bad_row, batch_size)
        result = ood_metrics(scores, foreign)
    found = Detection(rows, scores, float(detector.threshold), result)
    if out is not None:
        _write(found, Path(out))
    return found


def _scored(
    space: Space,
    detector: Detector,
    table: Table | Path | str,
    columns: Mapping[str, str] | None,
    on_bad_row: OnBadRow,
    batch_size: int,
) -> tuple[list[int], np.ndarray]:
    """Numbers of the rows of a table, and their scores."""
    if not isinstance(table, Table):
        table = read_table(str(table), columns=columns, on_bad_row=on_bad_row)
    kinds = [encoder.kind for encoder in space.encoders.values()]
    role = next((role for role, kind in table.kinds.items() if kind in kinds), None)
    if role is None:
        there = ", ".join(f"{role} ({kind.name})" for role, kind in table.kinds.items())
        raise ArgumentError(
            f"the space reads {', '.join(kind.name for kind in kinds)}; {table.name} has {there}: name a column "
            f"with --column {space.modalities[0]}=NAME"
        )
    cells = table.column(role)
    z = space.encode(cells, space.modality_for(role, cells[0]), batch_size=batch_size)
    device = detector.threshold.device
    with torch.inference_mode():
        scores = detector(torch.from_numpy(z).to(device)).cpu().numpy()
    return table.row_numbers(range(len(table))), scores


def _write(found: Detection, out: Path) -> None:
    with atomic_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "score", "threshold", "foreign"])
        for row, score, foreign in zip(found.rows, found.scores, found.foreign, strict=True):
            writer.writerow([row, repr(float(score)), repr(found.threshold), "yes" if foreign else "no"])


def as_text(found: Detection) -> str:
    """The result for people: how many rows are foreign, and which are the most."""
    order = np.argsort(found.scores, kind="stable")[:SHOWN]
    lines = [
        f"{int(found.foreign.sum()):,} of {len(found.rows):,} rows are foreign (score below {number(found.threshold)}, "
        "which 95% of the training rows reach)",
        "",
        aligned(
            ["row", "score", "foreign"],
            [
                [f"{found.rows[i]:,}", number(found.scores[i]), "yes" if found.foreign[i] else "no"]
                for i in order
            ],
            right=0,
        ),
    ]
    if found.against is not None:
        a = found.against
        lines += [
            "",
            f"AUROC {a.auroc:.4f}, FPR at 95% TPR {a.fpr95:.4f} ({a.n_in:,} rows in, {a.n_out:,} out)",
        ]
    return "\n".join(lines)


def as_json(found: Detection) -> dict[str, object]:
    """The result for machines."""
    return {
        "rows": found.rows,
        "scores": found.scores.tolist(),
        "threshold": found.threshold,
        "foreign": found.foreign.tolist(),
        "against": None if found.against is None else vars(found.against),
    }
