"""Training task after task, as `fit` and `compare` do it: what is measured after each, and what the card tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from nearfar.data.table import Table
from nearfar.errors import TableError
from nearfar.heads.class_prototypes import ClassPrototypes
from nearfar.measures.embeddings import measure_embeddings
from nearfar.measures.forgetting import continual_measurements
from nearfar.measures.measurement import Measurement
from nearfar.method import Method
from nearfar.space import Space
from nearfar.training.continual import History, Task, task_rows, train_tasks
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.verbs.measure import encoded

FOLLOWED = ("knn_accuracy", "logistic_accuracy", "mrr@10", "recall@1", "sts", "triplet_accuracy")
"""Measures that a task is followed by, where its held-out rows allow them."""


class HeldOut:
    """The held-out rows of every task, and what they are measured by.

    Args:
        tasks: the tasks that are learned, in order.
        table: held-out rows of all of them.

    Raises:
        TableError: a task has fewer than two held-out rows, or a held-out row is of no task that is learned.
    """

    def __init__(self, tasks: Sequence[Task], table: Table) -> None:
        found = task_rows(table)
        names = [task.name for task in tasks]
        if foreign := [name for name in found if name not in names]:
            raise TableError(
                f"{table.name}: {len(found[foreign[0]]):,} rows to measure on are of task {foreign[0]!r}, which has no "
                f"row to train on; the tasks are {', '.join(names)}"
            )
        for name in names:
            if len(found.get(name, ())) < 2:
                raise TableError(
                    f"{table.name}: task {name!r} has {len(found.get(name, ()))} rows to measure on, two are needed: "
                    "hold out a larger share of the rows with --holdout-share, or none with 0"
                )
        self.table, self.rows = table, [found[name] for name in names]
        self.classes = [_classes(task.table) for task in tasks]

    def so_far(self, number: int) -> Table:
        """The held-out rows of the first `number` tasks."""
        return self.table.select(np.concatenate(self.rows[:number]))

    def figures(self, space: Space, number: int) -> dict[str, float]:
        """What one task is followed by: the measures of `FOLLOWED`, and prototypes where the space has them.

        `prototype_accuracy` is the share of rows whose nearest prototype in cosine is that of their class, among
        all classes learned so far; for `prototype_accuracy_in_task` among the classes of the task.
        """
        z, others, cells = encoded(space, self.table.select(self.rows[number]))
        measured = measure_embeddings(z, others, identity=cells)
        found = {name: measured[name].value for name in FOLLOWED if name in measured}
        prototypes, classes = space.parts.get("prototypes"), self.classes[number]
        if isinstance(prototypes, ClassPrototypes) and classes:
            rows = torch.from_numpy(next(iter(z.values())))
            for name, among in (("prototype_accuracy", None), ("prototype_accuracy_in_task", classes)):
                right = [
                    a == b for a, b in zip(prototypes.classify(rows, among), others["label"], strict=True)
                ]
                found[name] = float(np.mean(right))
        return found


def _classes(table: Table) -> list[str]:
    names = table.label_names.get("label", [])
    return [names[label] for label in sorted(set(table.column("label")))] if names else []


def train_by_task(
    method: Method,
    tasks: Sequence[Task],
    settings: Settings,
    held_out: HeldOut | None,
    values: Callable[[Table], dict[str, float]],
    **how: Any,
) -> tuple[Run, History]:
    """`train_tasks` with the held-out rows of the tasks, where there are any.

    Args:
        method, tasks, settings: as for `train_tasks`.
        held_out: what to measure on.
        values: every measure of the space in training that some rows allow.
        **how: the rest of `train_tasks`.
    """
    if held_out is None:
        return train_tasks(method, tasks, settings, **how)
    return train_tasks(
        method,
        tasks,
        settings,
        measure=lambda number: held_out.figures(method.space(), number),
        evaluate=lambda number: values(held_out.so_far(number)),
        **how,
    )


def told_of(history: History, n: int) -> tuple[dict[str, Any], dict[str, Measurement]]:
    """What a card tells of the tasks, and the measures over them (on `n` held-out rows)."""
    return asdict(history), {m.name: m for m in continual_measurements(history.figures, n)}
