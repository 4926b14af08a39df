"""`fit`: a table in, a measured space out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nearfar.data.splits import holdout
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.encoders.encoder import Encoder
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import read_json, write_json
from nearfar.measures.embeddings import Measurement, measure_embeddings, primary_measure
from nearfar.report.model_card import model_card
from nearfar.space import Space
from nearfar.training.gather import process_rank
from nearfar.training.settings import Settings
from nearfar.training.trainer import Run, make_fabric, train
from nearfar.verbs.building import build_method, encoder_specs, hyperparameters_of, reads_of
from nearfar.verbs.measure import encoded
from nearfar.versions import versions

PRETRAINED_RATE = 5e-5
SCRATCH_RATE = 1e-3
HELD_OUT_LIMIT = 2000
"""Most rows that are held out for the measures before and after."""


def fit(
    method: str,
    table: Table | Path | str,
    out: Path | str | None = None,
    *,
    encoder: str | Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "error",
    holdout_share: float = 0.1,
    measure_on: Table | Path | str | None = None,
    max_length: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    steps: int | None = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Space:
    """Train a method on a table and measure its space on held-out rows before and after.

    Args:
        method: a name from `nearfar methods`.
        table: a table or its source.
        out: the space's folder; None keeps it in memory only.
        encoder: what reads the raw data: a name, or argument -> name where the method has several.
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        holdout_share: share of the rows kept from training for measuring; 0 measures on none.
        measure_on: another table to measure on instead of held-out rows.
        max_length: tokens read of a text; None keeps the encoder's own limit.
        resume: go on from the newest checkpoint in `out`, if there is one.
        overwrite: replace what is in `out`.
        steps: optimiser steps; with `epochs` None too, one epoch.
        epochs: passes over the training rows.
        learning_rate: None means 5e-5 where all encoders are pretrained, else 1e-3.
        hyperparameters: the method's own, by name.
        **settings: everything else of `nearfar.training.settings.Settings`.

    Returns:
        The space; its `card` holds the measures before and after, the settings and notes on the data.

    Raises:
        TableError: the table is wrong, or lacks what the method reads.
        ArgumentError: an argument is wrong.
        ArtefactError: `out` holds something already.
        TrainingError: training went wrong.
    """
    if steps is None and epochs is None:
        epochs = 1.0
    folder = None if out is None else Path(out)
    if folder is not None and process_rank() == 0:
        _claim(folder, resume, overwrite)
    checked = hyperparameters_of(method, hyperparameters or {})
    reads = reads_of(method)
    if not isinstance(table, Table):
        table = read_table(str(table), reads=reads, columns=columns, on_bad_row=on_bad_row)
    seed = int(settings.get("seed", 0))
    if isinstance(measure_on, (str, Path)):
        measure_on = read_table(str(measure_on), on_bad_row=on_bad_row)
    training, held_out = _parts(table, holdout_share, seed, measure_on)
    made = build_method(method, training, encoder=encoder, hyperparameters=checked, seed=seed, max_length=max_length)
    rate = learning_rate or (PRETRAINED_RATE if all(e.pretrained for e in made.encoders()) else SCRATCH_RATE)
    settled = Settings(steps=steps, epochs=epochs, learning_rate=rate, **settings)
    fabric = make_fabric(settled)
    made.to(fabric.device)
    command = {
        "method": method,
        "table": table.name,
        "columns": table.role_columns,
        "encoders": encoder_specs(encoder, method),
        "hyperparameters": checked,
        "settings": asdict(settled),
    }
    if folder is not None and process_rank() == 0:
        write_json(folder / "run.json", command)
    before = _measured(made.space(), held_out) if held_out is not None else {}
    for reader in made.encoders():
        reader.reset_counts()
    run = train(
        made,
        training,
        settled,
        folder=folder,
        evaluate=None if held_out is None else lambda: {n: m.value for n, m in _measured(made.space(), held_out).items()},
        watch_better=before[settled.watch].better if settled.watch in before else "higher",
        resume=resume,
        fabric=fabric,
    )
    notes = [*table.notes, *_notes(training, held_out, settled, made.encoders()), *run.warnings]
    after = _measured(made.space(), held_out) if held_out is not None else {}
    space = made.space()
    space.card = _card(command, training, held_out, before, after, run, notes)
    if folder is not None and process_rank() == 0:
        _finish(space, folder)
    return space


def _claim(folder: Path, resume: bool, overwrite: bool) -> None:
    """Make sure that nothing of value in `folder` is lost."""
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        return
    if overwrite:
        if not any((folder / name).exists() for name in ("space.json", "run.json")):
            raise ArtefactError(f"{folder} holds other things than a run of nearfar: it is not overwritten. Choose another folder")
        shutil.rmtree(folder)
        folder.mkdir()
    elif (folder / "space.json").exists():
        raise ArtefactError(f"{folder} holds a finished space: choose another folder, or pass --overwrite to replace it")
    elif not (folder / "run.json").exists():
        raise ArtefactError(f"{folder} is not empty and holds no run of nearfar: choose another folder")
    elif not resume:
        raise ArtefactError(f"{folder} holds an unfinished run: pass --resume to go on with it, or --overwrite to start anew")


def _parts(
    table: Table, share: float, seed: int, measure_on: Table | None
) -> tuple[Table, Table | None]:
    """The rows to train on and the rows to measure on."""
    if not 0 <= share < 1:
        raise ArgumentError(f"holdout is a share of the rows, at least 0 and below 1, not {share}")
    if measure_on is not None:
        return table, measure_on
    if share == 0:
        return table, None
    train_rows, test_rows = holdout(table, share, seed, limit=HELD_OUT_LIMIT)
    return table.select(train_rows), table.select(test_rows)


def _measured(space: Space, table: Table) -> dict[str, Measurement]:
    z, others, cells = encoded(space, table)
    return measure_embeddings(z, others, identity=cells)


def _notes(training: Table, held_out: Table | None, settings: Settings, encoders: list[Encoder]) -> list[str]:
    notes = [f"trained on {len(training):,} rows"]
    if held_out is not None:
        notes.append(f"measured on {len(held_out):,} rows that training did not see")
    if settings.accumulate > 1:
        notes.append(
            f"accumulation adds the gradients of {settings.accumulate} batches of {settings.batch_size}; each example still "
            f"meets only the others of its own batch. For more negatives use --batch-size with --cache-chunk"
        )
    if (lost := len(training) % settings.batch_size) and settings.epochs is not None:
        notes.append(f"{lost} rows are left over by batches of {settings.batch_size}: other ones in every epoch")
    notes += [note for encoder in encoders if (note := encoder.note())]
    return notes


def _card(
    command: dict[str, Any],
    training: Table,
    held_out: Table | None,
    before: dict[str, Measurement],
    after: dict[str, Measurement],
    run: Run,
    notes: list[str],
) -> dict[str, Any]:
    return {
        **command,
        "data": {
            "training_rows": len(training),
            "training_fingerprint": training.fingerprint,
            "measured_rows": 0 if held_out is None else len(held_out),
            "measured_fingerprint": None if held_out is None else held_out.fingerprint,
        },
        "measures": {
            name: {"before": before[name].value if name in before else None, "after": m.value, "better": m.better, "n": m.n}
            for name, m in after.items()
        },
        "primary_measure": primary_measure(after) if after else None,
        "steps": run.steps,
        "kept_step": run.kept_step,
        "stopped": run.stopped,
        "seconds": round(run.seconds, 2),
        "notes": notes,
        "versions": versions(),
    }


def _finish(space: Space, folder: Path) -> None:
    """Write the space into the run's folder; `space.json` comes last and says that all is there."""
    for name in space.modalities:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "README.md").write_text(model_card(space.card), encoding="utf-8")
    space.write(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for kept in folder.glob("best-*.safetensors"):
        kept.unlink()


def read_run(folder: Path | str) -> dict[str, Any]:
    """The resolved command of a run."""
    return read_json(Path(folder) / "run.json")
