"""One training run on rows already chosen: what `fit`, `compare`, `reproduce` and `demo` share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nearfar.data.checks import require_rows
from nearfar.data.table import Table
from nearfar.errors import ArgumentError, TableError
from nearfar.files import write_json
from nearfar.measures.embeddings import Measurement, measure_embeddings
from nearfar.method import Method
from nearfar.space import Space
from nearfar.training.devices import make_fabric
from nearfar.training.gather import process_rank
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method, encoder_specs, hyperparameters_of
from nearfar.verbs.measure import Embedded, encoded, measure_language

PRETRAINED_RATE = 5e-5
SCRATCH_RATE = 1e-3
WHOLE_TABLE_EPOCHS = 300.0
"""Of a method whose batch is the whole table, where neither steps nor epochs are given: each is one step."""


@dataclass
class Fitting:
    """A finished training run.

    Attributes:
        method: the trained method.
        command: everything that was resolved: method, table, encoders, hyperparameters, settings.
        before: measures on the held-out rows before training; empty without such rows.
        after: the same after it.
        embedded: the held-out rows as they were embedded before and after, for pictures.
        run: the curve and how it ended.
        notes: what users should know, in sentences.
    """

    method: Method
    command: dict[str, Any]
    before: dict[str, Measurement]
    after: dict[str, Measurement]
    embedded: tuple[Embedded, Embedded] | None
    run: Run
    notes: list[str]


def fit_rows(
    method: str,
    training: Table,
    held_out: Table | None = None,
    *,
    encoder: str | Mapping[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    max_length: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    folder: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Fitting:
    """Train a method on `training` and measure it on `held_out` before and after; see `fit` for the rest."""
    checked = hyperparameters_of(method, hyperparameters or {})
    seed = int(settings.get("seed", 0))
    made = build_method(
        method, training, encoder=encoder, hyperparameters=checked, seed=seed, max_length=max_length
    )
    if steps is None and epochs is None:
        epochs = WHOLE_TABLE_EPOCHS if made.whole_table else 1.0
    rate = learning_rate or _rate(made)
    settled = Settings(steps=steps, epochs=epochs, learning_rate=rate, **settings)
    fabric = make_fabric(settled)
    made.to(fabric.device)
    command = {
        "method": method,
        "table": training.name,
        "columns": training.role_columns,
        "encoders": encoder_specs(encoder, method),
        "hyperparameters": checked,
        "settings": asdict(settled),
    }
    if made.whole_table:
        settled = replace(settled, batch_size=len(training))
    if type(made).solve is Method.solve:
        require_rows(training, settled.batch_size)
    if held_out is not None and len(held_out) < 2:
        raise TableError(
            f"{held_out.name}: one row to measure on is not enough, two are needed: hold out a larger share of the "
            "rows with --holdout-share, or none with 0"
        )
    if folder is not None and process_rank() == 0:
        if overwrite:  # not before all has been checked: a mistyped option costs no finished space
            shutil.rmtree(folder)
        write_json(folder / "run.json", command)
    before, embedded_before = _measured(made.space(), held_out)
    for reader in made.encoders():
        reader.reset_counts()
    run = train(
        made,
        training,
        settled,
        folder=folder,
        evaluate=None
        if held_out is None
        else lambda: {n: m.value for n, m in _measured(made.space(), held_out)[0].items()},
        watch_better=_watch_better(settled.watch, before),
        resume=resume,
        fabric=fabric,
    )
    notes = [*_notes(training, held_out, settled, made, run), *made.notes(), *run.warnings]
    after, embedded_after = _measured(made.space(), held_out)
    embedded = (embedded_before, embedded_after) if embedded_before and embedded_after else None
    return Fitting(made, command, before, after, embedded, run, notes)


def _watch_better(watch: str | None, before: Mapping[str, Measurement]) -> str:
    """Where the good values of the watched measure lie; refuses, before the first step, one that has none."""
    if watch is None or not before:
        return "higher"
    if watch not in before or before[watch].better == "neither":
        known = ", ".join(name for name, m in before.items() if m.better != "neither")
        raise ArgumentError(f"watch {watch!r} is not measured on these rows; measured are: {known}")
    return before[watch].better


def _measured(space: Space, table: Table | None) -> tuple[dict[str, Measurement], Embedded | None]:
    """Every measure that a table allows, and what was measured; nothing without a table."""
    if table is None:
        return {}, None
    rows = encoded(space, table)
    z, others, cells = rows
    measured = measure_embeddings(z, others, identity=cells, geometry=space.geometry)
    return {**measured, **measure_language(space, cells)}, rows


def _rate(method: Method) -> float:
    """The learning rate where none is given: a low one only where what learns was trained before."""
    learning = [e for e in method.encoders() if any(p.requires_grad for p in e.parameters())]
    return PRETRAINED_RATE if learning and all(e.pretrained for e in learning) else SCRATCH_RATE


def _notes(
    training: Table, held_out: Table | None, settings: Settings, method: Method, run: Run
) -> list[str]:
    notes = [f"{'trained' if run.steps else 'fitted in closed form'} on {len(training):,} rows"]
    if held_out is not None:
        notes.append(f"measured on {len(held_out):,} rows that training did not see")
    if settings.accumulate > 1:
        notes.append(
            f"accumulation adds the gradients of {settings.accumulate} batches of {settings.batch_size}; each example "
            f"still meets only the others of its own batch. For more negatives use --batch-size with --cache-chunk"
        )
    lost = len(training) % settings.batch_size
    if run.steps and lost and settings.epochs is not None:
        notes.append(
            f"{lost} rows are left over by batches of {settings.batch_size}: other ones in every epoch"
        )
    notes += [note for encoder in method.encoders() if (note := encoder.note())]
    return notes
