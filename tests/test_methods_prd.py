"""PRD: its three terms are those of the released code, each moves what it should, and old pictures are gone."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import nearfar
from samples import write_csv
from test_methods_catalogue import gradients
from torch import Tensor

from nearfar.data.kinds import Image, Label
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError, TableError
from nearfar.methods.image.prd import PRD
from nearfar.space import Space
from nearfar.verbs.fit import fit

CLASSES = {"one": ["pear", "apple"], "two": ["fig", "nut"], "three": ["date", "plum"]}
FITTED: dict[str, Any] = {"steps": 2, "batch_size": 8, "holdout_share": 0.25, "on_collapse": "warn"}


def pictures(rows: int, seed: int = 0) -> list[PIL.Image.Image]:
    drawn = np.random.default_rng(seed)
    return [PIL.Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(rows)]


def table(rows: int = 72) -> Table:
    """Tasks one after the other; each class has its own brightness."""
    names = [name for pair in CLASSES.values() for name in pair]
    task = [name for name in CLASSES for _ in range(rows // 3)]
    label = [CLASSES[name][i % 2] for i, name in enumerate(task)]
    bright = [
        PIL.Image.fromarray(np.asarray(picture) // 4 + np.uint8(32 * names.index(name)))
        for picture, name in zip(pictures(rows), label, strict=True)
    ]
    columns = {"image": bright, "label": label, "task": task}
    return Table.from_columns(columns, {"image": Image, "label": Label, "task": Label}, name="fruit.csv")


TABLE = table()


def part(task: int) -> Table:
    return TABLE.select(range(24 * task, 24 * task + 24))


def method(tasks: int = 2, norm: Any = "group", **hyperparameters: Any) -> PRD:
    """PRD at the beginning of its second task (or another)."""
    torch.manual_seed(0)
    made = PRD(ConvNet(8, 8, 2, norm=norm), 6, **hyperparameters).train()
    for number in range(tasks):
        made.before_task(number, list(CLASSES), part(number))
    return made


def batch(made: PRD, task: int = 1) -> dict[str, Any]:
    return made.prepare(part(task).rows(range(8)), torch.Generator().manual_seed(0))


def moved(made: PRD) -> PRD:
    """The same after the network and all prototypes have moved."""
    with torch.no_grad():
        for parameter in [*made.encoder.parameters(), made.prototypes.weight]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made


def waves(frequency: float, rows: int, d: int = 4) -> Tensor:
    return torch.sin(torch.arange(d * rows, dtype=torch.float64) * frequency + frequency).view(rows, d)


# -- the terms -------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_released_code() -> None:
    """Numbers had from the released formulas on these matrices, T 0.1, T_base 0.07, without the coefficients."""
    made = method(1)
    made.prototypes.weight.data = 2 * waves(0.9, 2)
    made.places = [0, 1]
    one, two = waves(1.3, 5), waves(0.7, 5)
    z = {"one": one, "two": two, "projected one": 9 * one, "projected two": two}
    terms = made.contrast(z, {"label": torch.tensor([0, 1, 1, 0, 1])})
    assert list(terms) == ["sup_con", "prototypes"]
    assert float(terms["sup_con"].detach()) == pytest.approx(13.521309651532, rel=1e-9)
    expected = 0.0
    for rows in (one, two):
        for row, y in zip(rows, [0, 1, 1, 0, 1], strict=True):
            w = made.prototypes.weight.detach()[y]
            expected += (1 - float(row @ w / row.norm() / w.norm())) / 10
    assert float(terms["prototypes"].detach()) == pytest.approx(2 * expected, rel=1e-9)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_new_task_begins_without_loss_of_relations_and_without_pull(norm: str) -> None:
    """With batch norm too: the old network sees the batch as the new one does, not through running statistics."""
    made = method(norm=norm)
    term = made.contrast(made.embed(batch(made)), batch(made))["relations"]
    term.backward()
    assert float(term.detach()) == pytest.approx(0, abs=1e-5)
    assert all(float(gradient.abs().max()) < 1e-5 for gradient in gradients(made).values())


@pytest.mark.parametrize("axis", ["samples", "classes"])
def test_relations_are_those_of_features_to_old_prototypes_over_both_views(axis: Any) -> None:
    made = moved(method(3, axis=axis, relation_weight=1.0, relation_temperature=0.7))
    given = batch(made, 2)
    z = made.embed(given)
    got = float(made.contrast(z, given)["relations"].detach())
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        old = made.old["encoder"]
        before = torch.cat([old(given[v]).pooled for v in ("one", "two")])
        before = before @ unit(made.old["prototypes"].weight, dim=1).T / 0.7
        now = torch.cat([made.encoder(given[v]).pooled for v in ("one", "two")])
        now = now @ unit(made.prototypes.weight[:4], dim=1).T / 0.7
        if axis == "samples":
            expected = torch.nn.functional.kl_div(now.log_softmax(0), before.softmax(0), reduction="sum")
        else:
            parts = zip(before.split(2, 1), now.split(2, 1), strict=True)
            kl = torch.nn.KLDivLoss(reduction="batchmean")
            expected = torch.stack([kl(n.log_softmax(1), b.softmax(1)) for b, n in parts]).sum()
    assert got == pytest.approx(float(expected), rel=1e-3)
    assert got > 1e-4


def alone(made: PRD, name: str) -> dict[str, Tensor]:
    """Gradients of one term."""
    given = batch(made)
    made.contrast(made.embed(given), given)[name].backward()
    return gradients(made)


def test_each_term_moves_what_it_should() -> None:
    made = moved(method())
    pull = alone(made, "prototypes")
    assert set(pull) == {"prototypes.weight"}, "features are stopped"
    assert (pull["prototypes.weight"][:2] == 0).all()
    assert (pull["prototypes.weight"][2:].abs().sum(1) > 0).all()
    kept = alone(made, "relations")
    assert {name.split(".")[0] for name in kept} == {"encoder", "prototypes"}, (
        "the projection is not distilled"
    )
    assert (kept["prototypes.weight"][:2].abs().sum(1) > 0).all(), "old prototypes are not frozen"
    assert (kept["prototypes.weight"][2:] == 0).all()
    assert {name.split(".")[0] for name in alone(made, "sup_con")} == {"encoder", "head"}


def test_turning_space_and_prototypes_together_changes_neither_prototypes_nor_relations() -> None:
    made = moved(method(3)).double()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)).double())[0]
    given = {"label": torch.tensor(part(2).column("label")[:8])}
    names = ["one", "two", "projected one", "projected two", "old one", "old two"]
    z = {
        n: torch.randn(8, 16, generator=torch.Generator().manual_seed(i)).double()
        for i, n in enumerate(names)
    }
    before = made.contrast(z, given)
    made.prototypes.weight.data = made.prototypes.weight.data @ turn
    turned = made.contrast({n: v @ turn if n in ("one", "two") else v for n, v in z.items()}, given)
    for name in ("prototypes", "relations"):
        torch.testing.assert_close(turned[name], before[name])


# -- tasks -----------------------------------------------------------------------------------------


def test_labels_lead_to_the_prototypes_of_their_class_whatever_their_integers() -> None:
    """The classes of the table are numbered by the alphabet, not by task: apple 0, date 1, fig 2, nut 3, ..."""
    made = method(2)
    assert made.prototypes.names == ["apple", "pear", "fig", "nut"]
    assert [made.prototypes.names[place] if place >= 0 else None for place in made.places] == [
        "apple", None, "fig", "nut", "pear", None,
    ]  # fmt: skip
    assert part(1).column("label")[:2] == [2, 3]
    before = made.prototypes.weight.detach().clone()
    rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    z = {"one": rows, "two": rows, "projected one": rows, "projected two": rows}
    made.contrast(z, {"label": torch.tensor([3] * 4 + [2] * 4)})["prototypes"].backward()
    with torch.no_grad():
        made.prototypes.weight -= 100 * made.prototypes.weight.grad
    for place, own in ((2, rows[4:]), (3, rows[:4])):
        direction = torch.nn.functional.normalize(own, dim=1).mean(0)
        closer = torch.cosine_similarity(made.prototypes.weight[place], direction, dim=0)
        assert closer > torch.cosine_similarity(before[place], direction, dim=0)


def test_the_old_network_is_frozen_until_the_next_task() -> None:
    made = method(1)
    assert "old one" not in made.embed(batch(made, 0))
    kept = method(2)
    first = {name: value.clone() for name, value in kept.old.state_dict().items() if "extra" not in name}
    assert not any(parameter.requires_grad for parameter in kept.old.parameters())
    moved(kept)
    assert all(torch.equal(value, kept.old.state_dict()[name]) for name, value in first.items())
    kept.before_task(2, list(CLASSES), part(2))
    assert torch.equal(kept.old["prototypes"].weight, kept.prototypes.weight[:4])
    assert kept.old["encoder"] is not kept.encoder
    assert all(
        torch.equal(value, kept.old["encoder"].state_dict()[name])
        for name, value in kept.encoder.state_dict().items()
    )


def test_a_class_that_comes_again_keeps_its_prototype() -> None:
    made = method(2)
    before = made.prototypes.weight.detach().clone()
    made.before_task(2, list(CLASSES), TABLE.select(range(12, 60)))  # all three pairs
    assert made.prototypes.groups == [["apple", "pear"], ["fig", "nut"], ["date", "plum"]]
    assert torch.equal(made.prototypes.weight[:4], before)


def test_without_weight_nothing_is_encoded_by_the_old_network() -> None:
    made = method(2, relation_weight=0.0)
    made.old["encoder"].forward = None  # type: ignore[assignment]  # would fail if it were called
    given = batch(made)
    assert list(made.contrast(made.embed(given), given)) == ["sup_con", "prototypes"]


def test_the_defaults_are_those_of_the_release_and_nonsense_is_refused() -> None:
    defaults = {name: p.default for name, p in inspect.signature(PRD.__init__).parameters.items()}
    expected = {"dim": 128, "temperature": 0.1, "base_temperature": 0.07, "prototype_weight": 2.0,
                "relation_weight": 4.0, "relation_temperature": 1.0, "first_task": 1.2, "axis": "samples"}  # fmt: skip
    assert {name: defaults[name] for name in expected} == expected
    made = PRD(ConvNet(8, 8, 2))
    assert made.prototypes.weight.lr_mult * 1e-3 == pytest.approx(0.01)  # type: ignore[operator]
    assert [made.task_length(number) for number in range(3)] == [1.2, 1.0, 1.0]
    for wrong in ({"temperature": 0.0}, {"relation_weight": -1.0}, {"first_task": math.nan}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            PRD(ConvNet(8, 8, 2), **wrong)


# -- fit -------------------------------------------------------------------------------------------


def test_fit_learns_tasks_and_its_card_tells_what_was_forgotten(tmp_path: Path) -> None:
    space = fit("prd", TABLE, tmp_path / "out", **FITTED, measure_on=table(36))
    told = space.card["tasks"]
    assert told["tasks"] == ["one", "two", "three"]
    assert told["steps"] == [2, 2, 2]
    for name in ("knn_accuracy", "logistic_accuracy", "prototype_accuracy", "prototype_accuracy_in_task"):
        assert [len(row) for row in told["figures"][name]] == [1, 2, 3]
        average = np.mean(told["figures"][name][-1])
        assert space.card["measures"][f"average/{name}"]["after"] == pytest.approx(average)
        assert f"forgetting/{name}" in space.card["measures"]
    assert "in 3 tasks one after the other" in space.card["notes"][0]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| knn_accuracy after | one | two | three |" in page
    assert "(forgetting.svg)" in page
    assert (tmp_path / "out" / "forgetting.svg").read_text().startswith("<?xml")
    again = Space.load(tmp_path / "out")
    cells = TABLE.column("image")
    z = space.encode(cells)
    assert np.array_equal(again.encode(cells), z)
    kept = again.parts["prototypes"]
    assert kept.names == ["apple", "pear", "fig", "nut", "date", "plum"]
    assert kept.classify(torch.from_numpy(z)) == space.parts["prototypes"].classify(torch.from_numpy(z))


def test_the_last_row_of_the_card_is_what_its_space_does() -> None:
    """Both accuracies of prototypes, from the space alone, on the very rows held out."""
    held_out = table(36)
    space = fit("prd", TABLE, **{**FITTED, "steps": 8}, measure_on=held_out)
    z = torch.from_numpy(space.encode(held_out.column("image")))
    names = held_out.label_names["label"]
    truth = [names[label] for label in held_out.column("label")]
    prototypes = space.parts["prototypes"]
    for task, own in enumerate(CLASSES.values()):
        rows = range(12 * task, 12 * task + 12)
        for figure, among in (("prototype_accuracy", None), ("prototype_accuracy_in_task", own)):
            said = prototypes.classify(z[rows.start : rows.stop], among)
            right = np.mean([a == truth[i] for a, i in zip(said, rows, strict=True)])
            assert space.card["tasks"]["figures"][figure][2][task] == pytest.approx(right)


def test_an_interrupted_fit_goes_on_in_the_middle_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**FITTED, "steps": 4, "measure_on": table(36), "checkpoint_every": 1}
    whole = fit("prd", TABLE, tmp_path / "whole", **given)
    seen = 0

    def stop(self: PRD, z: dict[str, Tensor], step: int, steps: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 8:  # 5 steps of the first task, 3 of the second
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PRD, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fit("prd", TABLE, tmp_path / "stopped", **given)
    assert (tmp_path / "stopped" / "tasks" / "2" / "checkpoints" / "step-2").is_dir()
    again = fit("prd", TABLE, tmp_path / "stopped", **given, resume=True)
    assert again.fingerprint == whole.fingerprint
    assert again.card["tasks"] == whole.card["tasks"]
    assert again.card["steps"] == whole.card["steps"] == 13
    assert not (tmp_path / "stopped" / "checkpoints").exists()


def test_an_encoder_from_scratch_sees_the_first_task_only() -> None:
    """Tasks get brighter and brighter: what the encoder takes for the mean is that of the first."""
    space = fit("prd", TABLE, **{**FITTED, "holdout_share": 0.0})
    first = np.mean([np.asarray(picture) / 255 for picture in part(0).column("image")])
    assert float(space.encoders["image"].mean.mean()) == pytest.approx(first, abs=1e-3)
    assert space.card["tasks"]["figures"] == {}


def write(folder: Path, rows: int = 24, tasks: tuple[str, ...] = ("a", "b"), one_class: bool = False) -> Path:
    for i, picture in enumerate(pictures(rows)):
        picture.save(folder / f"{i}.png")
    cells = []
    for i in range(rows):
        task = tasks[i * len(tasks) // rows]
        label = "cat" if one_class and task == "b" else ("cat", "dog")[i % 2]
        cells.append((f"{i}.png", label, task, i % 3))
    return write_csv(folder / "notes.csv", ["image", "label", "era", "number"], cells)


def test_the_command_line_learns_tasks_by_a_named_column(tmp_path: Path) -> None:
    done = nearfar("fit", "prd", write(tmp_path), "--out", tmp_path / "out", "--column", "task=era", "--json",
                   "--batch-size", "8", "--steps", "1", "--holdout-share", "0.25", "--on-collapse", "warn")  # fmt: skip
    assert json.loads(done.stdout)["tasks"]["tasks"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, {"columns": {}}, r"no column 'task'.*--column task="),
        ({}, {"columns": {"task": "eras"}}, "did you mean 'era'"),
        ({"tasks": ("a",)}, {}, r"one task.*--column task="),
        ({"one_class": True}, {}, r"task 'b', column 'label': all .* rows have the label 'cat'"),
        ({}, {"batch_size": 16}, r"task 'a' has \d+ rows, fewer than one batch of 16"),
        ({}, {"holdout_share": 0.1}, r"task '[ab]' has [01] rows to measure on.*--holdout-share"),
    ],
)
def test_wrong_tables_are_told_before_the_first_step(
    changed: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {**FITTED, "columns": {"task": "era"}, **arguments}
    with pytest.raises(TableError, match=message):
        fit("prd", write(tmp_path, **changed), tmp_path / "out", **given)
    assert not (tmp_path / "out" / "tasks").exists()


def test_rows_to_measure_on_must_be_of_tasks_that_are_learned() -> None:
    with pytest.raises(
        TableError, match="of task 'three', which has no row to train on; the tasks are one, two"
    ):
        fit("prd", TABLE.select(range(48)), **FITTED, measure_on=TABLE)
