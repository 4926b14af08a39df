"""Task after task: their order, what is read and when, and a run that is stopped anywhere and goes on as if not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Label, Number, Vector
from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError
from nearfar.heads.class_prototypes import ClassPrototypes
from nearfar.method import Batch, Method
from nearfar.objectives import sup_con
from nearfar.space import Space
from nearfar.training.continual import History, learns_by_task, task_rows, tasks_of, train_tasks
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.teacher import snapshot
from nearfar.training.trainer import train

SETTINGS: dict[str, Any] = {
    "epochs": 2.0,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "seed": 3,
    "on_collapse": "warn",
}
TASKS = ["late", "early", "mid"]


class Plain(Method):
    """Supervised contrast on vectors with some noise; a teacher, prototypes, and a diary of what it was told."""

    reads = {"vector": Vector, "label": Label, "task": Label | Number}

    def __init__(self, encoder: MLPVector) -> None:
        super().__init__()
        self.encoder = encoder
        self.prototypes = ClassPrototypes(encoder.dim)
        self.old = snapshot(encoder)
        self.diary: list[tuple[int, list[str], int]] = []
        self.stop_at = -1
        self.done = 0

    def before_task(self, number: int, tasks: Sequence[str], table: Table) -> None:
        self.diary.append((number, list(tasks), len(table)))
        self.old = snapshot(self.encoder)
        names = table.label_names["label"]
        self.prototypes.add([names[label] for label in sorted(set(table.column("label")))])

    def task_length(self, number: int) -> float:
        return 1.5 if number == 0 else 1.0

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z = self.encoder(batch["vector"]).pooled
        with torch.no_grad():
            old = self.old(batch["vector"]).pooled
        return {"z": nn.functional.dropout(z, 0.1), "old": old}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        drift = (z["z"] - z["old"]).square().mean()
        reach = self.prototypes.weight.square().mean()
        return {"sup_con": sup_con(z["z"], batch["label"], temperature=0.5), "drift": drift, "reach": reach}

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        self.done += 1
        if self.done == self.stop_at:
            raise KeyboardInterrupt

    def space(self) -> Space:
        return Space({"vector": self.encoder}, parts={"prototypes": self.prototypes})


def table(rows: int = 48, kind: type = Label) -> Table:
    """Three tasks that alternate row by row, with two classes each."""
    random = np.random.default_rng(0)
    task = np.arange(rows) % 3
    labels = [f"{TASKS[t]}-{i // 3 % 2}" for i, t in enumerate(task)]
    names = [TASKS[t] for t in task] if kind is Label else [float((20, 3, 7)[t]) for t in task]
    vectors = random.normal(size=(rows, 4)).astype(np.float32)
    columns = {"vector": vectors, "label": labels, "task": names}
    return Table.from_columns(columns, {"vector": Vector, "label": Label, "task": kind}, name="notes.csv")


def method(stop_at: int = -1) -> Plain:
    torch.manual_seed(0)
    made = Plain(MLPVector(4, 6, 5))
    made.stop_at = stop_at
    return made


def run_all(
    made: Plain, folder: Path | None = None, resume: bool = False, **changed: Any
) -> tuple[Run, History]:
    settings = Settings(**{**SETTINGS, **changed})

    def measure(number: int) -> dict[str, float]:
        return {
            "drift": float(made.encoder.state_dict()[next(iter(made.encoder.state_dict()))].sum()) + number
        }

    return train_tasks(made, tasks_of(table()), settings, folder=folder, measure=measure, resume=resume)


# -- order -----------------------------------------------------------------------------------------


def test_labels_go_by_first_appearance_and_numbers_by_size() -> None:
    assert list(task_rows(table())) == TASKS  # neither in the order of the alphabet nor of sizes
    assert list(task_rows(table(kind=Number))) == ["3", "7", "20"]
    for name, rows in task_rows(table()).items():
        assert rows.tolist() == list(range(TASKS.index(name), 48, 3))
    years = Table.from_columns({"vector": np.eye(4, dtype=np.float32), "task": [1.5, 2.0, 1.5, 1e15 + 0.25]})
    assert list(task_rows(years)) == ["1.5", "2", "1000000000000000.2"]


def test_a_method_is_told_of_each_task_once_and_trained_as_long_as_it_asks() -> None:
    made = method()
    run, history = run_all(made)
    assert made.diary == [(number, TASKS, 16) for number in range(3)]
    assert history.steps == [6, 4, 4]  # 2 epochs of 2 batches, half as many again in the first
    assert run.steps == len(run.losses) == 14
    assert learns_by_task(Plain)
    assert not learns_by_task(type("Other", (Plain,), {"before_task": Method.before_task}))


def test_after_each_task_all_so_far_are_measured() -> None:
    made, asked = method(), []

    def measure(number: int) -> dict[str, float]:
        asked.append((len(made.diary), number))
        return {"known": 0.5 + number, **({"sometimes": 1.0} if number != 1 else {})}

    _, history = train_tasks(made, tasks_of(table()), Settings(**SETTINGS), measure=measure)
    assert asked == [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert history.figures == {"known": [[0.5], [0.5, 1.5], [0.5, 1.5, 2.5]]}, (
        "what some task lacks is left out"
    )


def test_while_a_task_is_learned_the_tasks_so_far_are_evaluated() -> None:
    made, asked = method(), []

    def evaluate(so_far: int) -> dict[str, float]:
        asked.append((len(made.diary), so_far))
        return {"known": 1.0}

    train_tasks(made, tasks_of(table()), Settings(**SETTINGS, measure_every=4), evaluate=evaluate)
    assert asked == [(1, 1), (2, 2), (3, 3)]


# -- no row of an earlier task ---------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The tasks of all rows whose vectors or labels are read, by call of `Table.rows` and `Table.column`."""
    calls: list[set[str]] = []
    rows, column = Table.rows, Table.column

    def noted_rows(self: Table, indices: Any) -> dict[str, list[Any]]:
        calls.append({TASKS[(number - 1) % 3] for number in self.row_numbers(indices)})
        return rows(self, indices)

    def noted_column(self: Table, role: str) -> list[Any]:
        calls.append({TASKS[(number - 1) % 3] for number in self.row_numbers(range(len(self)))})
        return column(self, role)

    monkeypatch.setattr(Table, "rows", noted_rows)
    monkeypatch.setattr(Table, "column", noted_column)
    return calls


def test_no_row_of_an_earlier_or_a_later_task_is_read_while_one_is_learned(read: list[set[str]]) -> None:
    tasks, made = tasks_of(table()), method()
    begun: list[int] = []
    told = made.before_task

    def noting(number: int, names: Sequence[str], part: Table) -> None:
        begun.append(len(read))
        told(number, names, part)

    made.before_task = noting  # type: ignore[method-assign]
    train_tasks(made, tasks, Settings(**SETTINGS))
    ends = [*begun[1:], len(read)]
    for name, start, end in zip(TASKS, begun, ends, strict=True):
        assert end - start >= 4, "every step reads its rows"
        assert set().union(*read[start:end]) == {name}


def test_a_resumed_run_reads_no_row_of_the_tasks_it_had_learned(read: list[set[str]], tmp_path: Path) -> None:
    tasks = tasks_of(table())
    settings = Settings(**SETTINGS, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        train_tasks(method(stop_at=8), tasks, settings, folder=tmp_path)  # two steps into the second task
    again, checked = method(), 0
    told = again.before_task

    def noting(number: int, names: Sequence[str], part: Table) -> None:
        nonlocal checked
        checked = checked or len(read)
        told(number, names, part)

    again.before_task = noting  # type: ignore[method-assign]
    train_tasks(again, tasks, settings, folder=tmp_path, resume=True)
    assert [entry[0] for entry in again.diary] == [1, 2]
    assert set().union(*read[checked:]) == {"early", "mid"}


# -- resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stop_at", "every"), [(2, 1), (6, 1), (8, 1), (9, 2), (14, 1), (8, 0)])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not(stop_at: int, every: int, tmp_path: Path) -> None:
    """Stopped in the first task, at its last step, in the second, between checkpoints, at the very end, without any."""
    whole = method()
    expected, history = run_all(whole, tmp_path / "whole", checkpoint_every=every)
    with pytest.raises(KeyboardInterrupt):
        run_all(method(stop_at=stop_at), tmp_path / "stopped", checkpoint_every=every)
    again = method()
    got, again_history = run_all(again, tmp_path / "stopped", resume=True, checkpoint_every=every)
    assert got.losses == expected.losses
    assert again_history == history
    assert again.prototypes.names == whole.prototypes.names
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    for task in "123":
        logs = [tmp_path / run / "tasks" / task / "log.csv" for run in ("whole", "stopped")]
        assert logs[0].read_text() == logs[1].read_text()
        assert not list((tmp_path / "stopped" / "tasks" / task).glob("checkpoints"))


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    whole = method()
    expected, history = run_all(whole, tmp_path)
    again = method()
    got, same = run_all(again, tmp_path, resume=True)
    assert again.done == 0
    assert again.diary == []
    assert (got.losses, same) == (expected.losses, history)
    assert torch.equal(again.prototypes.weight, whole.prototypes.weight)


def test_resuming_with_other_settings_or_tasks_is_refused(tmp_path: Path) -> None:
    run_all(method(), tmp_path)
    with pytest.raises(ArgumentError, match="learning_rate"):
        run_all(method(), tmp_path, resume=True, learning_rate=2e-2)
    with pytest.raises(ArgumentError, match="tasks"):
        train_tasks(method(), tasks_of(table())[:2], Settings(**SETTINGS), folder=tmp_path, resume=True)


def test_every_task_has_draws_and_an_optimiser_of_its_own(tmp_path: Path) -> None:
    """The second task as `train` would have done it alone, with its seed, from where the first ended."""
    made, alone = method(), method()
    tasks = tasks_of(table())
    settings = Settings(**SETTINGS)
    train_tasks(alone, tasks[:1], settings, folder=tmp_path)
    recorded, seeds = [], []

    class Noted(Plain):
        def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
            seeds.append(seed)
            return super().order(rows, batch_size, seed, epoch)

    noted = Noted(made.encoder)
    run, history = train_tasks(noted, tasks, settings)
    recorded = run.losses[history.steps[0] : sum(history.steps[:2])]
    assert len(set(seeds)) == 3
    own = Settings(
        **{**SETTINGS, "epochs": None, "steps": history.steps[1], "seed": list(dict.fromkeys(seeds))[1]}
    )
    # The prototypes that a task adds are drawn from the same seed as its steps.
    torch.manual_seed(own.seed)
    alone.before_task(1, TASKS, tasks[1].table)
    assert train(alone, tasks[1].table, own).losses == recorded


# -- errors ----------------------------------------------------------------------------------------


def vectors_with(task: list[Any], label: list[str]) -> Table:
    columns = {"vector": np.eye(len(task), 4, dtype=np.float32) + 1, "label": label, "task": task}
    return Table.from_columns(columns, {"vector": Vector, "label": Label, "task": Label}, name="notes.csv")


def test_tasks_that_cannot_be_learned_are_named_before_the_first_step() -> None:
    two, made = ["cat", "dog"] * 8, method()

    def attempt(task: list[str], label: list[str], batch_size: int = 4) -> None:
        given = tasks_of(vectors_with(task, label))
        train_tasks(made, given, Settings(**{**SETTINGS, "batch_size": batch_size}))

    with pytest.raises(
        TableError, match=r"notes.csv, column 'task': all 16 rows are of one task.*--column task="
    ):
        attempt(["a"] * 16, two)
    with pytest.raises(
        TableError, match=r"notes.csv, task 'b', column 'label': all 8 rows have the label 'cat'"
    ):
        attempt(["a"] * 8 + ["b"] * 8, two[:8] + ["cat"] * 8)
    with pytest.raises(TableError, match=r"notes.csv, task 'b' has 2 rows, fewer than one batch of 4"):
        attempt(["a"] * 14 + ["b"] * 2, two)
    without = Table.from_columns({"vector": np.eye(4, dtype=np.float32)}, name="notes.csv")
    with pytest.raises(TableError, match=r"notes.csv has no role 'task'.*--column task=NAME"):
        tasks_of(without)
    assert made.diary == []
