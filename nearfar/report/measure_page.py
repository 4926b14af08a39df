"""The page that shows what a space is like, or what training did to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.files import atomic_file
from nearfar.measures.measurement import Measurement
from nearfar.report import charts, figures
from nearfar.report.evidence import Evidence, gather_evidence
from nearfar.report.page import Captioned, Cell, PageTable, Section, page
from nearfar.report.tables import number

_WHERE_GOOD = {
    "higher": "↑ higher",
    "lower": "↓ lower",
    "closer_to_zero": "→0 closer to zero",
    "neither": "—",
}


def measure_page(
    before: Mapping[str, Measurement] | None,
    after: Mapping[str, Measurement],
    evidence_before: Evidence | None = None,
    evidence_after: Evidence | None = None,
    notes: Sequence[str] = (),
    title: str = "What this space is like",
    first: Sequence[Section] = (),
) -> str:
    """One HTML file with all measures, the pictures behind them, and what was left out.

    Args:
        before: measures before training; None where there is one state only.
        after: measures (after training).
        evidence_before: arrays for pictures of the state before.
        evidence_after: arrays for pictures.
        notes: anything else the reader should know, one sentence each.
        title: of the page.
        first: sections to stand before all others.
    """
    taken = {name: m for name, m in after.items() if not name.startswith("left_out/")}
    sections = [
        *first,
        Section("Measures", _MEASURES_TEXT[before is not None], measurement_table(before, taken)),
        *_pictures(before, taken, evidence_before, evidence_after or Evidence()),
    ]
    left_out = [
        f"{m.name.removeprefix('left_out/')}: {m.about} ({m.value:g} of {m.n})"
        for m in after.values()
        if m.name.startswith("left_out/")
    ]
    if notes or left_out:
        sections.append(Section("Notes", "\n\n".join([*notes, *(f"Left out: {what}" for what in left_out)])))
    rows = max((m.n for m in taken.values()), default=0)
    return page(title, sections, f"{len(taken)} measure{'s' * (len(taken) != 1)} on up to {rows:,} rows")


def write_measure_page(
    path: Path | str,
    measured: Mapping[str, Measurement],
    z: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[Any]],
    cells: Mapping[str, Sequence[Any]],
    first: Sequence[Section] = (),
) -> None:
    """Write the page of one state; `z`, `columns` and `cells` are as in `measure_embeddings`, `first` stands first."""
    html = measure_page(None, measured, evidence_after=gather_evidence(z, columns, cells), first=first)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


_MEASURES_TEXT = (
    "Each line is one number about the embeddings, the rows it was taken on, and what it says.",
    "Each line is one number about the embeddings, before and after training on the same rows. A change is "
    "called better or worse only where one direction is known to be good.",
)


def measurement_table(
    before: Mapping[str, Measurement] | None, after: Mapping[str, Measurement]
) -> PageTable:
    """One line for each measure; with `before`, also what has changed and whether that is better."""
    names = list(after) if before is None else list(dict.fromkeys([*after, *before]))
    heads = ("value",) if before is None else ("before", "after", "change")
    rows = []
    for name in names:
        if name.startswith("left_out/"):
            continue
        new, old = after.get(name), (before or {}).get(name)
        told = new or old
        assert told is not None  # every name comes from one of the two
        values = [Cell(_value(new), "number")]
        if before is not None:
            values = [Cell(_value(old), "number"), *values, change(old, new)]
        facts = [
            Cell(_WHERE_GOOD[told.better], "muted"),
            Cell(f"{told.n:,}", "number"),
            Cell(told.about, "muted"),
        ]
        rows.append([Cell(name), *values, *facts])
    return PageTable(("measure", *heads, "good is", "rows", "what it says"), rows)


def change(old: Measurement | None, new: Measurement | None) -> Cell:
    """How much a measure moved, in words where the direction has a meaning."""
    if old is None or new is None:
        return Cell("", "number")
    moved = new.value - old.value
    gain = {
        "higher": moved,
        "lower": -moved,
        "closer_to_zero": abs(old.value) - abs(new.value),
        "neither": 0.0,
    }[new.better]
    text = f"{moved:+.4f}" if abs(moved) < 10 else f"{moved:+.4g}"
    if abs(moved) < 5e-5:
        return Cell("±0", "number")
    if gain == 0:
        return Cell(text, "number")
    return Cell(f"{text} better", "good") if gain > 0 else Cell(f"{text} worse", "bad")


def _value(measurement: Measurement | None) -> str:
    return "—" if measurement is None else number(measurement.value)


def _pictures(
    before: Mapping[str, Measurement] | None,
    after: Mapping[str, Measurement],
    old: Evidence | None,
    new: Evidence,
) -> list[Section]:
    states = {"before": old, "after": new} if old is not None else {"after": new}
    drawn = {
        "At a glance": _glance(before, after),
        "Near and far": _nearness(before, after, states),
        "Use of the space": _spread(states),
        "Map": _maps(states),
    }
    return [Section(heading, "", content) for heading, content in drawn.items() if content]


def _glance(before: Mapping[str, Measurement] | None, after: Mapping[str, Measurement]) -> list[Captioned]:
    shares = {name: m.value for name, m in after.items() if m.better == "higher" and 0 <= m.value <= 1}
    if not shares:
        return []
    started = {name: before[name].value for name in shares if name in before} if before else {}
    return [
        Captioned(
            figures.before_after_bars(
                {n: v for n, v in started.items() if 0 <= v <= 1}, shares, range_x=(0.0, 1.1)
            ),
            "Measures between 0 and 1",
            "Longer bars are better. Compare the two bars of one measure, not bars of different measures.",
        )
    ]


def _nearness(
    before: Mapping[str, Measurement] | None,
    after: Mapping[str, Measurement],
    states: Mapping[str, Evidence],
) -> list[Captioned]:
    found = []
    panels = {name: state.cosines for name, state in states.items() if state.cosines is not None}
    if panels:
        found.append(
            Captioned(
                figures.cosine_histogram(panels if len(states) > 1 else {"": panels["after"]}),
                "Cosines of positives and of random pairs",
                "Blue: pairs that belong together. Red: rows paired at random. The less the two overlap, the "
                "better the space tells them apart; everything piled up at 1 is a collapse.",
            )
        )
    points = {}
    for name, measured in (("before", before or {}), ("after", after)):
        if {"alignment", "uniformity"} <= set(measured):
            points[name] = (measured["alignment"].value, measured["uniformity"].value)
    if len(points) > 1:
        found.append(
            Captioned(
                figures.alignment_uniformity_plane(points),
                "Alignment and uniformity",
                "Down: partners have come closer. Left: all rows are spread more evenly. Good spaces lie low "
                "and to the left; moving along one axis at the cost of the other is a trade.",
            )
        )
    return found


def _spread(states: Mapping[str, Evidence]) -> list[Captioned]:
    found = []
    roles = list(states["after"].spectra)
    for role in roles:
        of = f" of {role}" if len(roles) > 1 else ""
        spectra = {name: state.spectra[role] for name, state in states.items() if role in state.spectra}
        hubs = {name: state.hubs[role] for name, state in states.items() if role in state.hubs}
        if all(values[0] > 0 for values in spectra.values()):
            found.append(
                Captioned(
                    figures.singular_spectrum(spectra),
                    f"Singular values{of}",
                    "How much each direction of the space is used, against the most used one. A flat line "
                    "uses all; a steep fall means that few carry everything. Zeros are not drawn.",
                )
            )
        if hubs:
            k = hubs["after"].k
            found.append(
                Captioned(
                    figures.occurrence_histogram({name: h.counts for name, h in hubs.items()}, k),
                    f"Hubs{of}",
                    f"How often a row is among the {k} nearest of another. Dots far to the right are hubs, "
                    "which come up for unrelated queries; at 0 are rows that no search finds.",
                )
            )
    return found


def _maps(states: Mapping[str, Evidence]) -> list[Captioned]:
    return [
        Captioned(
            charts.row_map(state.places, state.labels, state.texts),
            f"Map of rows, {name}" if len(states) > 1 else "Map of rows",
            f"{len(state.places):,} rows in the plane of their two largest principal components. Rows close "
            "here may be far apart in the full space. Point at one to read it; click a name to hide it.",
        )
        for name, state in states.items()
        if state.places is not None
    ]
