"""PRD's experiment: five tasks that share nothing, and baselines that are what they are called."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.recipes.prd import AFTER, ARMS, FineTune, LwF, figures, picture, tasks_by_class

NAMES = [f"class {letter}" for letter in "abcdefghij"]


def table(each: int = 6) -> Table:
    drawn = np.random.default_rng(0)
    pictures = [Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(10 * each)]
    return Table.from_columns({"image": pictures, "label": NAMES * each}, name="pictures")


TABLE = table()


def baseline(make: type[FineTune], **hyperparameters: float) -> FineTune:
    """At the beginning of the second task."""
    torch.manual_seed(0)
    made = make(ConvNet(8, 8, 2), 4, **hyperparameters)
    for number, task in enumerate(tasks_by_class(TABLE)[:2]):
        made.before_task(number, [], task.table)
    return made.train()


def terms(made: FineTune) -> dict[str, Tensor]:
    rows = tasks_by_class(TABLE)[1].table.rows(range(12))
    return made.contrast(made.embed(given := made.prepare(rows, torch.Generator().manual_seed(0))), given)


def test_five_tasks_of_two_classes_hold_every_picture_once() -> None:
    tasks = tasks_by_class(TABLE)
    assert [task.name for task in tasks] == [f"{NAMES[i]}, {NAMES[i + 1]}" for i in range(0, 10, 2)]
    numbers = [number for task in tasks for number in task.table.row_numbers(range(len(task.table)))]
    assert sorted(numbers) == list(range(1, 61))
    for first, task in zip(range(0, 10, 2), tasks, strict=True):
        assert set(task.table.column("label")) == {first, first + 1}


def test_cross_entropy_is_among_the_classes_of_the_task_alone() -> None:
    made = baseline(FineTune, relation_weight=0.0)
    found = terms(made)
    assert list(found) == ["cross_entropy"]
    assert float(found["cross_entropy"].detach()) == pytest.approx(np.log(2), abs=0.2)
    found["cross_entropy"].backward()
    weight = made.prototypes.weight.grad
    assert weight is not None
    assert (weight[:2] == 0).all()
    assert (weight[2:] != 0).any(dim=1).all()


def test_lwf_begins_at_the_entropy_of_the_old_logits_and_pulls_when_they_move() -> None:
    made = baseline(LwF, relation_weight=1.0, relation_temperature=2.0)
    start = terms(made)["old logits"]
    start.backward()
    assert made.prototypes.weight.grad is not None
    torch.testing.assert_close(made.prototypes.weight.grad[:2], torch.zeros(2, 16), rtol=0, atol=1e-6)
    with torch.no_grad():
        made.prototypes.weight[:2] *= torch.tensor([[40.0], [-40.0]])
    assert float(terms(made)["old logits"].detach()) > float(start.detach()) + 0.01
    assert "old logits" not in terms(baseline(LwF, relation_weight=0.0))


def test_figures_tell_known_tasks_from_all_classes() -> None:
    """Prototypes put on the pictures' own features: right among two, and lost among all to a planted stranger."""
    made = ARMS["prd"](ConvNet(8, 8, 2))
    for number, task in enumerate(tasks_by_class(TABLE)[:2]):
        made.before_task(number, [], task.table)
    first = tasks_by_class(TABLE)[0].table
    z = torch.from_numpy(made.space().encode(first.column("image")))
    labels = torch.tensor(first.column("label"))
    made.prototypes.weight.data[:2] = torch.stack([z[labels == 0].mean(0), z[labels == 1].mean(0)])
    made.prototypes.weight.data[2:] = -z.mean(0)
    apart = figures(made, first)
    assert apart["task-IL"] == apart["class-IL"] > 0.5
    said = made.prototypes.classify(z, NAMES[:2])
    right = next(row for row, name in enumerate(said) if name == NAMES[int(labels[row])])
    made.prototypes.weight.data[3] = z[right]
    assert figures(made, first)["class-IL"] < apart["task-IL"] == figures(made, first)["task-IL"]


def test_the_picture_has_a_curve_for_every_arm(tmp_path: Path) -> None:
    found = {f"first task after {after}": [0.9, 0.8 - after / 100, 0.7] for after in AFTER}
    picture({"seeds": dict.fromkeys(ARMS, found)}, tmp_path / "prd.svg")
    drawn = set(re.findall(r"<!-- (.*?) -->", (tmp_path / "prd.svg").read_text(encoding="utf-8")))
    assert {*ARMS, "accuracy on the first task"} <= drawn
