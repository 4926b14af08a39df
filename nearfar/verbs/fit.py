"""`fit`: a table in, a measured space out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.data.splits import holdout
from nearfar.data.table import OnBadRow, Table, read_table
from nearfar.errors import ArgumentError, ArtefactError
from nearfar.files import read_json
from nearfar.measures.embeddings import primary_measure
from nearfar.methods import method_class
from nearfar.report.model_card import FORGETTING, model_card
from nearfar.space import Space
from nearfar.training.continual import learns_by_task, task_rows
from nearfar.training.gather import process_rank
from nearfar.verbs.building import reads_of, require_columns, together_of
from nearfar.verbs.fitting import Fitting, fit_rows
from nearfar.versions import versions

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
        out: the space's folder; in Python, None keeps it in memory only.
        encoder: what reads the raw data: a name, or argument -> name where the method has several.
        columns: role -> column, where names do not tell.
        on_bad_row: "error" or "skip".
        holdout_share: share of the rows kept from training for measuring; 0 measures on none.
        measure_on: another table to measure on instead of held-out rows.
        max_length: tokens read of a text; None keeps the encoder's own limit.
        resume: go on from the newest checkpoint in `out`, if there is one.
        overwrite: replace what is in `out`.
        steps: optimiser steps; with `epochs` None too, one epoch (300 where a batch is the whole table).
        epochs: passes over the training rows.
        learning_rate: None means 5e-5 where all encoders that learn are pretrained, else 1e-3.
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
    folder = None if out is None else Path(out)
    if folder is not None and process_rank() == 0:
        _claim(folder, resume, overwrite)
    if not isinstance(table, Table):
        table = read_table(str(table), reads=reads_of(method), columns=columns, on_bad_row=on_bad_row)
    require_columns(method, table)
    by_task = learns_by_task(method_class(method))
    if isinstance(measure_on, (str, Path)):
        # Tasks are told by a column of no standard role: it is looked for as in the table itself.
        reads, named = (reads_of(method), columns) if by_task else (None, None)
        measure_on = read_table(str(measure_on), reads=reads, columns=named, on_bad_row=on_bad_row)
    if by_task:
        table = table.select(np.concatenate(list(task_rows(table).values())))
    training, held_out = _parts(method, table, holdout_share, int(settings.get("seed", 0)), measure_on)
    fitting = fit_rows(
        method,
        training,
        held_out,
        encoder=encoder,
        hyperparameters=hyperparameters,
        max_length=max_length,
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        folder=folder,
        resume=resume,
        overwrite=overwrite,
        **settings,
    )
    space = fitting.method.space()
    space.card = card_of(fitting, training, held_out, table.notes)
    if folder is not None and process_rank() == 0:
        _finish(space, folder)
    return space


def _claim(folder: Path, resume: bool, overwrite: bool) -> None:
    """Make sure that nothing of value in `folder` is lost; with `overwrite`, `fit_rows` empties it in time."""
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{folder} is a file: choose a folder for the space")
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        return
    if overwrite:
        if not any((folder / name).exists() for name in ("space.json", "run.json")):
            raise ArtefactError(
                f"{folder} holds other things than a run of nearfar: it is not overwritten. Choose another folder"
            )
    elif (folder / "space.json").exists():
        raise ArtefactError(
            f"{folder} holds a finished space: choose another folder, or pass --overwrite to replace it"
        )
    elif not (folder / "run.json").exists():
        raise ArtefactError(f"{folder} is not empty and holds no run of nearfar: choose another folder")
    elif not resume:
        raise ArtefactError(
            f"{folder} holds an unfinished run: pass --resume to go on with it, or --overwrite to start anew"
        )


def _parts(
    method: str, table: Table, share: float, seed: int, measure_on: Table | None
) -> tuple[Table, Table | None]:
    """The rows to train on and the rows to measure on."""
    if not 0 <= share < 1:
        raise ArgumentError(f"holdout is a share of the rows, at least 0 and below 1, not {share}")
    if measure_on is not None:
        return table, measure_on
    if share == 0:
        return table, None
    train_rows, test_rows = holdout(table, share, seed, HELD_OUT_LIMIT, together_of([method]))
    return table.select(train_rows), table.select(test_rows)


def card_of(
    fitting: Fitting, training: Table, held_out: Table | None, table_notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What the model card of a fitted space tells."""
    run = fitting.run
    measures = {
        name: {
            "before": fitting.before[name].value if name in fitting.before else None,
            "after": m.value,
            "better": m.better,
            "n": m.n,
            "about": m.about,
        }
        for name, m in fitting.after.items()
    }
    return {
        **fitting.command,
        "data": {
            "training_rows": len(training),
            "training_fingerprint": training.fingerprint,
            "measured_rows": 0 if held_out is None else len(held_out),
            "measured_fingerprint": None if held_out is None else held_out.fingerprint,
        },
        **({"tasks": fitting.tasks} if fitting.tasks else {}),
        "measures": measures,
        "primary_measure": primary_measure(fitting.after) if fitting.after else None,
        "steps": run.steps,
        "kept_step": run.kept_step,
        "stopped": run.stopped,
        "seconds": round(run.seconds, 2),
        "notes": [*table_notes, *fitting.notes],
        "versions": versions(),
    }


def _finish(space: Space, folder: Path) -> None:
    """Write the space into the run's folder; `space.json` comes last and says that all is there."""
    for name in space.modalities:
        shutil.rmtree(folder / name, ignore_errors=True)
    if space.card.get("tasks", {}).get("figures"):
        from nearfar.report.pictures import forgetting_picture

        forgetting_picture(space.card["tasks"]["tasks"], space.card["tasks"]["figures"], folder / FORGETTING)
    (folder / "README.md").write_text(model_card(space.card, space.geometry), encoding="utf-8")
    space.write(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for kept in folder.glob("best-*.safetensors"):
        kept.unlink()


def read_run(folder: Path | str) -> dict[str, Any]:
    """The resolved command of a run."""
    return read_json(Path(folder) / "run.json")
