"""Tasks learned one after the other: no row of an earlier task is read again, and all are measured after each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from nearfar.data.checks import require_labels, require_rows
from nearfar.data.kinds import Label
from nearfar.data.table import Table
from nearfar.errors import TableError
from nearfar.method import Method
from nearfar.training.checkpoint import (
    check_identity,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from nearfar.training.devices import make_fabric
from nearfar.training.gather import process_rank
from nearfar.training.loader import ALL_PROCESSES, step_seed
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

ROLE = "task"
TASKS = "tasks"
"""Folder of a run that holds one folder a task: its log, and its checkpoints while it is learned."""


@dataclass(frozen=True)
class Task:
    """The rows of a table that belong to one task; its table carries the task in its name, for messages."""

    name: str
    table: Table


@dataclass
class History:
    """What became of every task.

    Attributes:
        tasks: names in the order of learning.
        steps: optimiser steps of each.
        figures: name -> after each task, the figure on the held-out rows of every task so far.
    """

    tasks: list[str]
    steps: list[int] = field(default_factory=list)
    figures: dict[str, list[list[float]]] = field(default_factory=dict)


Measure = Callable[[int], dict[str, float]]
"""Measure the space in training on held-out rows, told by a number: name -> value."""


def learns_by_task(method: type[Method]) -> bool:
    """Whether a method is trained task after task."""
    return method.before_task is not Method.before_task


def task_rows(table: Table) -> dict[str, np.ndarray]:
    """The rows of every task, in order of learning: labels in order of first appearance, numbers by size.

    Raises:
        TableError: the table has no role `task`.
    """
    if ROLE not in table.kinds:
        raise TableError(
            f"{table.name} has no role {ROLE!r}, and tasks are learned one after the other: name the column that "
            f"tells them with --column {ROLE}=NAME"
        )
    cells = np.asarray(table.column(ROLE))
    values, first = np.unique(cells, return_index=True)
    if table.kinds[ROLE] is Label:
        names = table.label_names[ROLE]
        return {names[value]: np.flatnonzero(cells == value) for value in values[np.argsort(first)].tolist()}
    numbers = {str(int(value)) if value.is_integer() else repr(value): value for value in values.tolist()}
    return {name: np.flatnonzero(cells == value) for name, value in numbers.items()}


def tasks_of(table: Table) -> list[Task]:
    """The tasks of a table, in order of learning.

    Raises:
        TableError: the table has no role `task`, or one task only.
    """
    found = task_rows(table)
    if len(found) < 2:
        raise TableError(
            f"{table.name}, column {table.role_columns[ROLE]!r}: all {len(table):,} rows are of one task; two or more "
            f"are learned one after the other (another column: --column {ROLE}=NAME)"
        )
    tasks = []
    for name, rows in found.items():
        part = table.select(rows)
        part.name = f"{table.name}, task {name!r}"
        tasks.append(Task(name, part))
    return tasks


def require_tasks(method: Method, tasks: Sequence[Task], batch_size: int) -> None:
    """Refuse, before the first step, a task that could not be learned.

    Raises:
        TableError: a task does not fill a batch, or has labels that tell nothing apart.
    """
    for task in tasks:
        require_rows(task.table, batch_size)
        if "label" in method.reads and "label" in task.table.kinds:
            require_labels(task.table)


def train_tasks(
    method: Method,
    tasks: Sequence[Task],
    settings: Settings,
    *,
    folder: Path | None = None,
    measure: Measure | None = None,
    evaluate: Measure | None = None,
    watch_better: str = "higher",
    resume: bool = False,
    fabric: Fabric | None = None,
) -> tuple[Run, History]:
    """Train a method on one task after the other, in place, each with an optimiser and a schedule of its own.

    Steps and epochs of the settings are those of one task (times `method.task_length`). Labels of all tasks are
    looked at once, before the first step, to check them; from then on no row is read but those of the task that
    is learned. After each task the state is kept in `folder`, so that this is true of a resumed run as well;
    within a task it goes on from the newest checkpoint, as `train` does.

    Args:
        method: what to train; hears of each task by `before_task`.
        tasks: as `tasks_of` returns them.
        settings: how long a task is trained, and how; `seed` gives every task a seed of its own.
        folder: where logs and checkpoints go; None writes nothing.
        measure: measures task `number` (from 0), higher being better; called for all tasks so far after each.
        evaluate: measures the first `number` tasks together, every `settings.measure_every` steps.
        watch_better: as for `train`.
        resume: go on from what `folder` holds, if there is anything.
        fabric: as for `train`.

    Returns:
        The runs of all tasks as one, and what became of each task.

    Raises:
        TableError: a task cannot be learned.
        ArgumentError, TrainingError: as `train`.
    """
    require_tasks(method, tasks, settings.batch_size)
    fabric = fabric or make_fabric(settings)
    method.to(fabric.device)
    names = [task.name for task in tasks]
    identity = {**settings.identity(), "tasks": [[task.name, len(task.table)] for task in tasks]}
    run, history = Run(), History(names)
    if resume and folder and (place := latest_checkpoint(folder / "checkpoints")):
        facts = load_checkpoint(place, method, [])
        check_identity(place, facts["settings"], identity)
        run, history = Run(**facts["run"]), History(**facts["history"])
        for number in range(len(history.steps)):
            _tidy(folder / TASKS / str(number + 1))
    for number in range(len(history.steps), len(tasks)):
        torch.manual_seed(step_seed(settings.seed, number, ALL_PROCESSES))
        method.before_task(number, names, tasks[number].table)
        own = None if folder is None else folder / TASKS / str(number + 1)
        part = train(
            method,
            tasks[number].table,
            _settings_of(number, method, settings, len(tasks[number].table)),
            folder=own,
            evaluate=None if evaluate is None else partial(evaluate, number + 1),
            watch_better=watch_better,
            resume=resume,
            fabric=fabric,
        )
        _add(run, part, names[number])
        history.steps.append(part.steps)
        if measure is not None:
            _record(history, [measure(earlier) for earlier in range(number + 1)])
        if folder is not None and own is not None and process_rank() == 0:
            progress = {
                "step": run.steps,
                "run": asdict(run),
                "history": asdict(history),
                "settings": identity,
            }
            save_checkpoint(folder / "checkpoints", method, [], progress)
            _tidy(own)
    return run, history


def _tidy(own: Path) -> None:
    """Remove what only an unfinished task needs."""
    shutil.rmtree(own / "checkpoints", ignore_errors=True)
    for best in own.glob("best-*.safetensors"):
        best.unlink()


def _settings_of(number: int, method: Method, settings: Settings, rows: int) -> Settings:
    """The settings of one task."""
    steps = max(1, round(method.task_length(number) * settings.total_steps(rows)))
    return replace(settings, steps=steps, epochs=None, seed=step_seed(settings.seed, number, ALL_PROCESSES))


def _record(history: History, found: list[dict[str, float]]) -> None:
    """Add a row to every figure; one that not all tasks have is no figure of the sequence."""
    if len(found) == 1:
        history.figures = {name: [] for name in found[0]}
    for name in list(history.figures):
        if all(name in one for one in found):
            history.figures[name].append([one[name] for one in found])
        else:
            del history.figures[name]


def _add(run: Run, part: Run, task: str) -> None:
    """Append the run of one task."""
    run.steps += part.steps
    run.losses += part.losses
    run.seconds += part.seconds
    run.warnings += [f"task {task!r}: {warning}" for warning in part.warnings]
    if part.kept_step is not None:
        run.warnings.append(f"task {task!r}: kept the weights of its step {part.kept_step}")
    if part.stopped is not None:
        stopped = f"task {task!r}: {part.stopped}"
        run.stopped = stopped if run.stopped is None else f"{run.stopped}; {stopped}"
