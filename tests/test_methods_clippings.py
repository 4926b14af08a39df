"""CLIPPINGS: records of picture and text, by what must be true of its losses, its batches and its space."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import nearfar
from PIL import Image as Pictures
from PIL import ImageDraw
from torch import nn

from nearfar.data.kinds import Image, Label, Text
from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.encoders.text import TransformerText
from nearfar.errors import ArgumentError
from nearfar.methods.multimodal.clip import CLIP
from nearfar.methods.retrieval.clippings import CLIPPINGS
from nearfar.search.records import encode_table
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.fit import fit
from nearfar.verbs.measure import measure

CLASSES, EACH = 12, 4
ROWS = CLASSES * EACH


def picture(i: int) -> Pictures.Image:
    drawn = Pictures.new("RGB", (24, 8), "white")
    ImageDraw.Draw(drawn).text((i % EACH, -2), f"n{i // EACH}", fill="black")
    return drawn


def texts(n: int = ROWS) -> list[str]:
    return [f"n{i // EACH} scan {'abcd'[i % EACH]}" for i in range(n)]


def table(labels: list[str] | None = None) -> Table:
    columns: dict[str, Any] = {"image": [picture(i) for i in range(ROWS)], "text": texts()}
    kinds: dict[str, Any] = {"image": Image, "text": Text}
    if labels is not None:
        columns, kinds = {**columns, "label": labels}, {**kinds, "label": Label}
    return Table.from_columns(columns, kinds)


LABELS = [f"name {i // EACH:02d}" for i in range(ROWS)]


def made(seed: int = 0, **changed: Any) -> CLIPPINGS:
    torch.manual_seed(seed)
    text = TransformerText.tiny(texts(), vocabulary=60, layers=1, dim=16, heads=2, ffn=16, dropout=0.0)
    return CLIPPINGS(ConvNet((8, 24), width=4, blocks=2), text, **{"dim": 8, **changed})


def unit(rows: int, seed: int, dim: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def batch_of(method: CLIPPINGS, data: Table, rows: Any) -> dict[str, Any]:
    cells = data.rows(rows)
    return method.prepare({role: cells[role] for role in method.reads if role in cells}, torch.Generator())


# -- stage A ---------------------------------------------------------------------------------------


def test_without_labels_it_is_clips_loss_with_clips_temperature() -> None:
    method, v, t = made(), unit(6, 0), unit(6, 1)
    got = method.contrast({"image": v, "text": t}, {"text id": torch.arange(6)})
    scores = v @ t.T / 0.07
    both = [nn.functional.cross_entropy(one, torch.arange(6)) for one in (scores, scores.T)]
    assert float(got["clip"].detach()) == pytest.approx(float(sum(both)) / 2, rel=1e-6)
    assert list(got) == ["clip"]
    clip = CLIP(*method.encoders(), dim=8)
    torch.testing.assert_close(clip.contrast({"image": v, "text": t}, {})["info_nce"], got["clip"])
    got["clip"].backward()
    assert method.temperature.nu.grad is not None


def test_copies_of_a_text_are_no_negatives_of_each_other() -> None:
    method, v, t = made(), unit(5, 0), unit(5, 1)
    t[3] = t[1]
    ids = batch_of(method, table(), [0, 1, 2, 3, 4])["text id"]
    assert len(set(ids.tolist())) == 5
    ids[3] = ids[1]
    got = method.contrast({"image": v, "text": t}, {"text id": ids})["clip"].detach()
    scores = v @ t.T / 0.07
    hidden = (ids[:, None] == ids) & ~torch.eye(5, dtype=torch.bool)
    scores = scores.masked_fill(hidden, -math.inf)
    both = [nn.functional.cross_entropy(one, torch.arange(5)) for one in (scores, scores.T)]
    assert float(got) == pytest.approx(float(sum(both)) / 2, rel=1e-6)


# -- stages B and C --------------------------------------------------------------------------------


def test_with_labels_it_is_sup_con_of_the_fused_records() -> None:
    method = made(image_weight=0.3, class_temperature=0.2)
    v, t, labels = unit(8, 0) * 3, unit(8, 1) * 7, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    got = method.contrast({"image": v, "text": t}, {"label": labels})
    e = nn.functional.normalize(0.3 * v / 3 + 0.7 * t / 7, dim=1)
    expected = []
    for i in range(8):
        others = [a for a in range(8) if a != i]
        total = torch.logsumexp(torch.stack([e[i] @ e[a] / 0.2 for a in others]), 0)
        near = [p for p in others if labels[p] == labels[i]]
        expected.append(torch.stack([total - e[i] @ e[p] / 0.2 for p in near]).mean())
    assert list(got) == ["sup_con"]
    assert float(got["sup_con"]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-6)


@pytest.mark.parametrize(("weight", "looks_at"), [(1.0, ["image"]), (0.0, ["text"])])
def test_a_weight_of_zero_leaves_a_modality_alone(weight: float, looks_at: list[str]) -> None:
    method = made(image_weight=weight)
    batch = batch_of(method, table(LABELS), range(8))
    assert sorted(batch) == sorted([*looks_at, "label"])
    z = method.embed(batch)
    assert list(z) == looks_at
    method.contrast(z, batch)["sup_con"].backward()
    for name, encoder in method.towers.encoders.items():
        learned = any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
        assert learned == (name in looks_at)
    space = method.space()
    cells = table().column(looks_at[0])
    assert np.allclose(encode_table(space, table()), space.encode(cells, looks_at[0]), atol=1e-6)


def test_labels_may_be_left_alone() -> None:
    method = made(supervision="none")
    assert "text id" in batch_of(method, table(LABELS), range(8))
    method.before_epoch(table(LABELS), lambda table, role: torch.empty(0))
    assert method.groups is None
    assert sorted(method.order(ROWS, 10, 0, 0)) == list(range(ROWS)), "any size of a batch is right"


# -- who meets whom --------------------------------------------------------------------------------


def on_a_circle(data: Table, role: str) -> torch.Tensor:
    """Class c at angle 30 c degrees, so that its neighbours are c - 1 and c + 1."""
    angles = torch.tensor(data.column("label")) * (2 * math.pi / CLASSES)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_a_group_is_a_class_with_its_nearest_and_groups_are_never_mixed() -> None:
    method = made(rows_per_class=2)
    seen = set()
    for epoch in range(2):
        torch.manual_seed(epoch)
        method.before_epoch(table(LABELS), on_a_circle)
        for entries in method.order(ROWS, 12, 0, epoch).reshape(-1, 6):
            classes = (entries // EACH).reshape(3, 2)
            assert (classes[:, 0] == classes[:, 1]).all(), "rows of a class lie side by side"
            anchor = classes[0, 0]
            assert set(classes[:, 0]) == {anchor, (anchor + 1) % CLASSES, (anchor - 1) % CLASSES}
            seen.add((epoch, int(anchor)))
    assert len(seen) == 2 * ROWS // 6, "no anchor twice in an epoch"


def test_the_class_itself_is_in_its_group_even_where_another_looks_the_same() -> None:
    method = made(rows_per_class=2, neighbours=2)
    method.before_epoch(table(LABELS), lambda data, role: torch.ones(len(data), 2))
    assert method.groups is not None
    [groups] = method.groups.groups
    assert (groups[:, 0] // EACH == np.arange(CLASSES)).all()
    assert all(len(set(group // EACH)) == 2 for group in groups)


def test_with_one_neighbour_every_row_comes_and_none_twice() -> None:
    method = made(rows_per_class=2, neighbours=1)
    torch.manual_seed(0)
    method.before_epoch(table(LABELS), lambda table, role: torch.empty(0))
    order = method.order(ROWS, 8, 0, 0)
    assert sorted(order) == list(range(ROWS))
    assert (order.reshape(-1, 2)[:, 0] // EACH == order.reshape(-1, 2)[:, 1] // EACH).all()


def test_exemplars_are_embedded_as_records_by_the_encoder_as_it_is() -> None:
    """Hard groups follow w: with pictures alone, what the text encoder says must not matter."""
    asked: list[str] = []

    def embed(data: Table, role: str) -> torch.Tensor:
        asked.append(role)
        assert sorted(data.column("label")) == list(range(CLASSES)), "one exemplar of each class"
        return on_a_circle(data, role)

    for weight, roles in ((0.5, ["image", "text"]), (1.0, ["image"]), (0.0, ["text"])):
        asked.clear()
        made(image_weight=weight).before_epoch(table(LABELS), embed)
        assert asked == roles


def test_an_epoch_is_drawn_from_seed_and_epoch_alone() -> None:
    orders = []
    for _ in range(2):
        method = made()
        torch.manual_seed(5)
        method.before_epoch(table(LABELS), on_a_circle)
        orders.append(method.order(ROWS, 9, 1, 2).tolist())
    assert orders[0] == orders[1]
    torch.manual_seed(6)
    method.before_epoch(table(LABELS), on_a_circle)
    assert method.order(ROWS, 9, 1, 2).tolist() != orders[0]


# -- from stage to stage ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("spaces") / "a"
    method = made()
    train(method, table(), Settings(steps=2, batch_size=16, learning_rate=1e-3))
    return method.space().save(place)


def test_the_next_stage_begins_where_the_last_one_ended(stage_a: Path) -> None:
    before = Space.load(stage_a)
    other = made(seed=9, start=str(stage_a), dim=3)
    assert all(encoder.pretrained for encoder in other.encoders())
    assert np.array_equal(encode_table(other.space(), table()), encode_table(before, table()))
    train(other, table(LABELS), Settings(steps=2, batch_size=18, learning_rate=1e-3))
    assert not np.allclose(encode_table(other.space(), table()), encode_table(before, table()))
    assert Space.load(stage_a).fingerprint == before.fingerprint


def test_a_space_that_lacks_a_modality_is_no_start(tmp_path: Path) -> None:
    place = Space({"text": made().encoders()[1]}).save(tmp_path / "text")
    with pytest.raises(ArgumentError, match=r"start must name a space with heads for image and text.*none"):
        made(start=str(place))
    with pytest.raises(ArgumentError, match="start must name the folder of a space, and nowhere is none"):
        made(start="nowhere")


def test_a_fitted_space_fuses_measures_and_loads_the_same(tmp_path: Path, stage_a: Path) -> None:
    space = fit(
        "clippings",
        table(LABELS),
        tmp_path / "space",
        encoder={"image": "tiny", "text": "tiny"},
        batch_size=9,
        steps=2,
        hyperparameters={"start": str(stage_a), "image_weight": 0.8},
        holdout_share=0.3,
    )
    again = Space.load(tmp_path / "space")
    assert np.array_equal(encode_table(again, table()), encode_table(space, table()))
    v, t = (again.encode(table().column(role), role) for role in ("image", "text"))
    e = nn.functional.normalize(torch.from_numpy(0.8 * v + 0.2 * t), dim=1)
    assert np.allclose(encode_table(again, table()), e, atol=1e-6)
    measured = measure(again, table(LABELS))
    assert {"knn_accuracy/image", "knn_accuracy/text", "knn_accuracy/record"} <= set(measured)
    assert "knn_accuracy/record" in space.card["measures"]
    assert not [name for name in measured if "record" in name and ("mrr" in name or "align" in name)]


def test_resuming_finds_the_groups_of_the_epoch_again(tmp_path: Path) -> None:
    plan = {"batch_size": 9, "learning_rate": 1e-3, "checkpoint_every": 3}
    whole = train(made(), table(LABELS), Settings(steps=8, **plan))
    first = made()
    train(first, table(LABELS), Settings(steps=8, **plan), folder=tmp_path)
    for place in (tmp_path / "checkpoints").iterdir():
        if place.name != "step-3":
            for file in sorted(place.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            place.rmdir()
    assert latest(tmp_path) in ([], ["step-3"])
    resumed = train(made(), table(LABELS), Settings(steps=8, **plan), folder=tmp_path, resume=True)
    assert resumed.losses == whole.losses


def latest(folder: Path) -> list[str]:
    return sorted(place.name for place in (folder / "checkpoints").iterdir())


# -- arguments -------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_paper() -> None:
    defaults = {name: p.default for name, p in inspect.signature(CLIPPINGS.__init__).parameters.items()}
    assert defaults["image_weight"] == 0.5
    assert defaults["class_temperature"] == 0.1
    assert (defaults["rows_per_class"], defaults["neighbours"]) == (3, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_weight", 1.5, "image_weight must be between 0 and 1"),
        ("class_temperature", 0.0, "class_temperature must be between"),
        ("rows_per_class", 1, "rows_per_class must be between 2"),
        ("neighbours", 0, "neighbours must be between 1"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        made(**{name: value})


def test_a_batch_that_cuts_groups_is_refused_with_one_that_does_not() -> None:
    with pytest.raises(
        ArgumentError, match=r"multiple of the 9 rows of a group.*got 16: pass --batch-size 9"
    ):
        train(made(), table(LABELS), Settings(steps=1, batch_size=16))
    method = made()
    method.before_epoch(table(LABELS), on_a_circle)
    with pytest.raises(ArgumentError, match=r"at most the 108 of all groups, got 117: pass --batch-size 108"):
        method.order(999, 117, 0, 0)
    with pytest.raises(ArgumentError, match=r"neighbours must be between 1 and 12, got 13"):
        made(neighbours=13).before_epoch(table(LABELS), on_a_circle)


def test_fit_from_the_command_line_says_what_is_missing(pairs_csv: Path, tmp_path: Path) -> None:
    done = nearfar("fit", "clippings", pairs_csv, "--out", tmp_path / "space", check=False)
    assert done.returncode == 1
    assert "--column image=" in done.stderr
    assert done.stderr.count("\n") == 1
