"""One training run on rows already chosen: what `fit`, `compare`, `reproduce` and `demo` share."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nearfar.data.checks import require_rows
from nearfar.data.kinds import Node
from nearfar.data.table import Table
from nearfar.errors import ArgumentError, TableError
from nearfar.files import write_json
from nearfar.measures.embeddings import Measurement, measure_embeddings
from nearfar.method import Method
from nearfar.methods import method_class
from nearfar.space import Space
from nearfar.training.continual import learns_by_task, require_tasks, tasks_of
from nearfar.training.devices import make_fabric
from nearfar.training.gather import process_rank
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method, encoder_specs, hyperparameters_of
from nearfar.verbs.measure import Embedded, encoded, measure_language
from nearfar.verbs.tasks import HeldOut, told_of, train_by_task

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
        tasks: what became of each task, where they were learned one after the other.
        notes: what users should know, in sentences.
    """

    method: Method
    command: dict[str, Any]
    before: dict[str, Measurement]
    after: dict[str, Measurement]
    embedded: tuple[Embedded, Embedded] | None
    run: Run
    notes: list[str]
    tasks: dict[str, Any] | None = None


def fit_rows(
    method: str,
    training: Table,
    held_out: Table | Mapping[str, Table] | None = None,
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
    known: dict[str, dict[str, Measurement]] | None = None,
    **settings: Any,
) -> Fitting:
    """Train a method on `training` and measure it on `held_out` before and after; see `fit` for the rest.

    `held_out` may be several tables by name, whose measures are then called NAME/MEASURE (those of "" alone keep
    their names); training is watched on the first. `known` remembers what spaces measure before training, by their
    fingerprints, for calls that share `held_out`.
    """
    tests = {} if held_out is None else {"": held_out} if isinstance(held_out, Table) else dict(held_out)
    held_out = next(iter(tests.values()), None)
    checked = hyperparameters_of(method, hyperparameters or {})
    seed = int(settings.get("seed", 0))
    tasks = tasks_of(training) if learns_by_task(method_class(method)) else []
    made = build_method(
        method,
        training,
        encoder=encoder,
        hyperparameters=checked,
        seed=seed,
        max_length=max_length,
        seen=tasks[0].table if tasks else None,
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
        "encoders": encoder_specs(encoder, method, training),
        "hyperparameters": checked,
        "settings": asdict(settled),
    }
    if made.whole_table:
        settled = replace(settled, batch_size=len(training))
    if type(made).solve is Method.solve:
        require_rows(training, settled.batch_size)
    short = next((test for test in tests.values() if len(test) < 2), None)
    if short is not None:  # a table without rows is false
        raise TableError(
            f"{short.name}: one row to measure on is not enough, two are needed: hold out a larger share of the "
            "rows with --holdout-share, or none with 0"
        )
    kept_apart = HeldOut(tasks, held_out) if tasks and held_out is not None else None
    require_tasks(made, tasks, settled.batch_size)
    if folder is not None and process_rank() == 0:
        if overwrite:  # not before all has been checked: a mistyped option costs no finished space
            shutil.rmtree(folder)
        write_json(folder / "run.json", command)
    space = made.space()
    if known is not None and space.fingerprint in known:
        before, embedded_before = known[space.fingerprint], None
    else:
        before, embedded_before = _measured_on(space, tests)
        if known is not None:
            known[space.fingerprint] = before
    for reader in made.encoders():
        reader.reset_counts()

    def values(rows: Table) -> dict[str, float]:
        return {name: m.value for name, m in _measured(made.space(), rows)[0].items()}

    how: dict[str, Any] = {"folder": folder, "resume": resume, "fabric": fabric}
    how["watch_better"] = _watch_better(settled.watch, before)
    if tasks:
        run, history = train_by_task(made, tasks, settled, kept_apart, values, **how)
        told, over_tasks = told_of(history, 0 if held_out is None else len(held_out))
    else:
        evaluate = None if held_out is None else partial(values, held_out)
        run, told, over_tasks = train(made, training, settled, evaluate=evaluate, **how), None, {}
    parts = [len(task.table) for task in tasks] or [len(training)]
    notes = [*_notes(parts, held_out, settled, made, run), *made.notes(), *run.warnings]
    after, embedded_after = _measured_on(made.space(), tests)
    embedded = (embedded_before, embedded_after) if embedded_before and embedded_after else None
    return Fitting(made, command, before, {**after, **over_tasks}, embedded, run, notes, told)


def _watch_better(watch: str | None, before: Mapping[str, Measurement]) -> str:
    """Where the good values of the watched measure lie; refuses, before the first step, one that has none."""
    if watch is None or not before:
        return "higher"
    if watch not in before or before[watch].better == "neither":
        known = ", ".join(name for name, m in before.items() if m.better != "neither")
        raise ArgumentError(f"watch {watch!r} is not measured on these rows; measured are: {known}")
    return before[watch].better


def _measured_on(space: Space, tests: Mapping[str, Table]) -> tuple[dict[str, Measurement], Embedded | None]:
    """The measures of all tables, and what was measured of the first."""
    found: dict[str, Measurement] = {}
    first: Embedded | None = None
    for name, test in tests.items():
        measured, embedded = _measured(space, test)
        first = first or embedded
        found |= {f"{name}/{measure}" if name else measure: value for measure, value in measured.items()}
    return found, first


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
    parts: Sequence[int], held_out: Table | None, settings: Settings, method: Method, run: Run
) -> list[str]:
    """What users should know; `parts` holds the rows of each task, of all together where there are none."""
    notes = [f"{'trained' if run.steps else 'fitted in closed form'} on {sum(parts):,} rows"]
    if len(parts) > 1:
        notes[0] += f" in {len(parts)} tasks one after the other, each without the rows of those before"
    if held_out is not None and Node in held_out.kinds.values():
        nodes = len(held_out.rows([0])["node"][0].graph)
        notes = [f"trained on a graph of {nodes:,} nodes: the links and vectors of all, and no label"]
    if held_out is not None:
        which = "of these nodes" if Node in held_out.kinds.values() else "rows that training did not see"
        notes.append(f"measured on {len(held_out):,} {which}")
    if settings.accumulate > 1:
        notes.append(
            f"accumulation adds the gradients of {settings.accumulate} batches of {settings.batch_size}; each example "
            f"still meets only the others of its own batch. For more negatives use --batch-size with --cache-chunk"
        )
    lost = sum(rows % settings.batch_size for rows in parts)
    if run.steps and lost and settings.epochs is not None:
        notes.append(
            f"{lost} rows are left over by batches of {settings.batch_size}: other ones in every epoch"
        )
    notes += [note for encoder in method.encoders() if (note := encoder.note())]
    return notes
