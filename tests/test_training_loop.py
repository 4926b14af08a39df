"""The loop: steps and epochs, hooks, stages, schedule, alarms, early stopping, logs, the loader."""

from __future__ import annotations

import csv
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from nearfar.batching.order import batch_of, epoch_order
from nearfar.data.kinds import Vector
from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TableError, TrainingError
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Embed, Method, Stage
from nearfar.objectives import alignment, info_nce
from nearfar.space import Space
from nearfar.training import trainer
from nearfar.training.alarms import (
    EVERY,
    GRACE,
    LOOKS,
    CollapseAlarm,
    effective_rank,
    mean_cosine,
    relative_spread,
)
from nearfar.training.loader import AHEAD, ahead, prepare_batch, step_seed, to_device
from nearfar.training.logs import Log
from nearfar.training.optimiser import make_optimiser, rate_at, set_rate
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.training.watch import Watch

ROWS = 48


class Near(Method):
    """Two vectors of a row are near."""

    reads = {"vector": Vector, "positive": Vector}

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = MLPVector(4, 8, 6, layers=1, dropout=dropout)
        self.head = Projection(6, 5)
        self.calls: list[Any] = []

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        names = {"one": "vector", "two": "positive"}
        return {name: self.head(self.encoder(batch[role]).pooled) for name, role in names.items()}

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"info_nce": info_nce(z["one"], z["two"], temperature=0.5)}

    def space(self) -> Space:
        return Space({"vector": self.encoder}, {"vector": self.head})


class Aligned(Near):
    """A loss of each row for itself: no example meets another."""

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"align": alignment(z["one"], z["two"]), "size": z["one"].square().mean()}

    def negatives(self, batch_size: int) -> int:
        return 0


class OnePiece(Near):
    """A loss that cannot be cut."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return self.contrast(self.embed(batch), batch)


def table(rows: int = ROWS) -> Table:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((rows, 4)).astype(np.float32)
    near = vectors + 0.1 * random.standard_normal((rows, 4)).astype(np.float32)
    return Table.from_columns({"vector": vectors, "positive": near})


def made(kind: type[Near] = Near, seed: int = 0, **arguments: Any) -> Near:
    torch.manual_seed(seed)
    return kind(**arguments)


def settings(**given: Any) -> Settings:
    return Settings(**{"steps": 6, "batch_size": 8, "learning_rate": 0.01, "schedule": "constant", **given})


def weights(method: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in method.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def curve(folder: Path, column: str = "loss") -> list[float]:
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


@contextmanager
def gradients() -> Iterator[list[list[Tensor]]]:
    """The gradients that each optimiser step sees."""
    seen: list[list[Tensor]] = []

    def look(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimiser.param_groups
        seen.append([p.grad.clone() for g in groups for p in g["params"] if p.grad is not None])

    handle = register_optimizer_step_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


# -- the same run ----------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    losses, ends = [], []
    for seed, noise in ((3, 0), (3, 99), (4, 0)):
        method = made()
        torch.manual_seed(noise)  # what a program drew before must not matter
        np.random.seed(noise)
        losses.append(train(method, table(), settings(seed=seed, epochs=2, steps=None)).losses)
        ends.append(weights(method))
    assert losses[0] == losses[1]
    assert equal(ends[0], ends[1])
    assert losses[0][0] != losses[2][0]
    assert not equal(ends[0], ends[2])


def test_batches_are_drawn_without_replacement_and_anew_in_every_epoch() -> None:
    class Watching(Near):
        def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
            self.calls.append([tuple(cell.tolist()) for cell in rows["vector"]])
            return super().prepare(rows, generator)

    method = made(Watching)
    train(method, table(20), settings(batch_size=8, epochs=3, steps=None))
    assert len(method.calls) == 6
    every = {tuple(cell.tolist()) for cell in table(20).column("vector")}
    orders = []
    for epoch in range(3):
        first, second = method.calls[2 * epoch : 2 * epoch + 2]
        assert len(set(first) | set(second)) == 16
        assert set(first) | set(second) <= every
        orders.append(first + second)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(
    ("given", "rows", "steps"),
    [
        ({"steps": 7}, 48, 7),
        ({"epochs": 1.0}, 48, 6),
        ({"epochs": 2.0}, 50, 12),  # two rows are left over in each pass
        ({"epochs": 1.5}, 48, 9),
        ({"epochs": 1.0, "accumulate": 2}, 48, 3),
        ({"epochs": 3.0, "accumulate": 4}, 48, 4),
        ({"epochs": 0.01}, 48, 1),
    ],
)
def test_steps_of_epochs(given: dict[str, Any], rows: int, steps: int) -> None:
    chosen = settings(**{"steps": None, **given})
    assert chosen.total_steps(rows) == steps
    run = train(made(), table(rows), chosen)
    assert run.steps == len(run.losses) == steps


# -- hooks and stages ------------------------------------------------------------------------------


class Hooked(Near):
    def before_epoch(self, table: Table, embed: Embed) -> None:
        z = embed(table, "vector")
        self.calls.append(("epoch", len(table), tuple(z.shape), z.requires_grad))
        torch.testing.assert_close(z, torch.from_numpy(self.space().encode(table.column("vector"))))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        assert self.training
        assert self.encoder.training
        return super().embed(batch)

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        graph = any(value.requires_grad for value in z.values())
        stepped = all(parameter.grad is None for parameter in self.parameters())
        self.calls.append((step, steps, tuple(z["two"].shape), graph, stepped))


@pytest.mark.parametrize("cache_chunk", [None, 3])
def test_hooks_are_called_in_order_with_what_they_are_promised(cache_chunk: int | None) -> None:
    method = made(Hooked)
    train(method, table(24), settings(steps=7, cache_chunk=cache_chunk))
    epoch = ("epoch", 24, (24, 5), False)
    steps = [(step, 7, (8, 5), False, True) for step in range(1, 8)]
    assert method.calls == [epoch, *steps[:3], epoch, *steps[3:6], epoch, steps[6]]


class Staged(Near):
    def stages(self) -> list[Stage]:
        return [
            Stage("head", 0.5, self.head.parameters()),
            Stage("encoder", 0.25, self.encoder.parameters()),
            Stage("all", 0.25),
        ]

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        self.calls.append((weights(self.encoder), weights(self.head)))


def test_stages_freeze_and_thaw() -> None:
    method = made(Staged)
    before = (weights(method.encoder), weights(method.head))
    train(method, table(), settings(steps=8, weight_decay=0.5))
    states = [before, *method.calls]
    moved = [(not equal(old[0], new[0]), not equal(old[1], new[1])) for old, new in pairwise(states)]
    assert moved == [(False, True)] * 4 + [(True, False)] * 2 + [(True, True)] * 2
    assert all(parameter.requires_grad for parameter in method.parameters())


# -- gradients -------------------------------------------------------------------------------------


def test_accumulation_is_the_mean_gradient_of_the_joined_batch() -> None:
    """For a loss in which examples do not meet; for InfoNCE it is not, which is why `fit` says so."""
    for kind, same in ((Aligned, True), (Near, False)):
        with gradients() as several:
            run = train(made(kind, dropout=0.0), table(), settings(steps=1, batch_size=8, accumulate=3))
        with gradients() as joined:
            whole = train(made(kind, dropout=0.0), table(), settings(steps=1, batch_size=24))
        assert len(several) == len(joined) == 1
        close = [torch.allclose(a, b, atol=1e-6) for a, b in zip(several[0], joined[0], strict=True)]
        assert all(close) == same
        assert (run.losses[0] == pytest.approx(whole.losses[0], rel=1e-5)) == same


def test_cached_and_uncached_runs_are_one(tmp_path: Path) -> None:
    method, cached = made(dropout=0.0), made(dropout=0.0)
    plain = train(method, table(), settings())
    assert train(cached, table(), settings(cache_chunk=3)).losses == pytest.approx(plain.losses, rel=1e-5)
    for name, value in weights(method).items():
        torch.testing.assert_close(cached.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    seen = {}
    for limit in (0.0, 0.01, 1e6):
        with gradients() as found:
            train(made(dropout=0.0), table(), settings(steps=1, clip_norm=limit))
        seen[limit] = torch.cat([gradient.flatten() for gradient in found[0]])
    assert torch.equal(seen[0.0], seen[1e6])
    assert float(seen[0.0].norm()) > 0.1
    assert float(seen[0.01].norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(torch.cosine_similarity(seen[0.0], seen[0.01], dim=0)) == pytest.approx(1, abs=1e-5)


def test_mixed_precision_keeps_weights_and_loss_in_single() -> None:
    class Typed(Near):
        def embed(self, batch: Batch) -> dict[str, Tensor]:
            z = super().embed(batch)
            self.calls.append(z["one"].dtype)
            return z

    method = made(Typed)
    run = train(method, table(), settings(precision="bf16-mixed"))
    assert set(method.calls) == {torch.bfloat16}
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    assert run.losses == pytest.approx(train(made(), table(), settings()).losses, rel=0.05)


# -- optimiser and schedule ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.5, 1.0, *(0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8))]),
    ],
)
def test_learning_rate_of_every_step(schedule: str, expected: list[float], tmp_path: Path) -> None:
    chosen = settings(steps=10, warmup=0.2, schedule=schedule, learning_rate=0.02)
    assert [rate_at(step, 10, chosen) / 0.02 for step in range(10)] == pytest.approx(expected)
    train(made(), table(), chosen, folder=tmp_path)
    assert curve(tmp_path, "learning_rate") == pytest.approx([0.02 * part for part in expected])


def test_without_warmup_the_first_step_has_the_whole_rate() -> None:
    chosen = settings(steps=4, warmup=0.0, schedule="linear", learning_rate=1.0)
    assert [rate_at(step, 4, chosen) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_groups_of_the_optimiser() -> None:
    method = made()
    temperature = nn.Parameter(torch.ones(2, 2))
    temperature.lr_mult, temperature.no_weight_decay = 10.0, True  # type: ignore[attr-defined]
    method.temperature, method.frozen = temperature, nn.Parameter(torch.ones(3), requires_grad=False)
    optimiser = make_optimiser(method, settings(weight_decay=0.3))
    set_rate(optimiser, 0.5)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    for name, parameter in method.named_parameters():
        wanted = (5.0, 0.0) if name == "temperature" else (0.5, 0.3 if parameter.ndim == 2 else 0.0)
        assert found.get(id(parameter)) == (None if name == "frozen" else wanted), name


# -- logs ------------------------------------------------------------------------------------------


def test_the_loss_is_shown_beside_what_chance_would_give(tmp_path: Path) -> None:
    run = train(made(), table(), settings(), folder=tmp_path)
    assert curve(tmp_path) == run.losses
    assert curve(tmp_path, "step") == [1, 2, 3, 4, 5, 6]
    assert curve(tmp_path, "excess") == pytest.approx([loss - math.log(7) for loss in run.losses])


def test_terms_have_columns_and_no_excess_where_there_are_no_negatives(tmp_path: Path) -> None:
    run = train(made(Aligned), table(), settings(), folder=tmp_path)
    assert "excess" not in (tmp_path / "log.csv").read_text().splitlines()[0]
    sums = [a + b for a, b in zip(curve(tmp_path, "align"), curve(tmp_path, "size"), strict=True)]
    assert sums == pytest.approx(run.losses, rel=1e-6)


def test_tensorboard_has_what_the_csv_has(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(
        made(),
        table(),
        settings(logs="tensorboard", measure_every=3),
        folder=tmp_path,
        evaluate=lambda: {"uniformity": -1.5},
    )
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(run.losses, rel=1e-6)
    assert [(event.step, event.value) for event in events.Scalars("measure/uniformity")] == [
        (3, -1.5),
        (6, -1.5),
    ]
    assert curve(tmp_path) == run.losses
    measures = (tmp_path / "measures.csv").read_text().splitlines()
    assert measures == ["step,measure,value", "3,uniformity,-1.5", "6,uniformity,-1.5"]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(made(), table(), settings(measure_every=2), evaluate=lambda: {"uniformity": 0.0})
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_log_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, "csv", 0)
    for step in range(1, 6):
        log.write(step, {"loss": step / 10})
        log.write_measures(step, {"sts": step / 100})
    log.close()
    log = Log(tmp_path, "csv", 3)
    log.write(4, {"loss": 9.0})
    log.write_measures(4, {"sts": 8.0})
    log.close()
    assert curve(tmp_path) == [0.1, 0.2, 0.3, 9.0]
    lines = (tmp_path / "measures.csv").read_text().splitlines()
    assert lines == ["step,measure,value", "1,sts,0.01", "2,sts,0.02", "3,sts,0.03", "4,sts,8.0"]
    Log(tmp_path, "csv", 0).close()
    assert not (tmp_path / "measures.csv").exists()


def test_a_term_that_comes_later_gets_a_column_and_nothing_is_lost(tmp_path: Path) -> None:
    log = Log(tmp_path, "csv", 0)
    log.write(1, {"loss": 0.1})
    log.write(2, {"loss": 0.2, "mlm": 5.0})
    log.write(3, {"loss": 0.3})
    log.close()
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "step,loss,mlm",
        "1,0.1,",
        "2,0.2,5.0",
        "3,0.3,",
    ]


# -- what goes wrong -------------------------------------------------------------------------------


def spiked() -> Table:
    """Row 17 holds numbers so large that the network makes no number of them."""
    cells = {role: np.stack(table().column(role)) for role in ("vector", "positive")}
    cells["vector"][17] = 3e38
    return Table.from_columns(cells)


def test_a_step_that_is_no_number_can_be_replayed(tmp_path: Path) -> None:
    run = settings(steps=12, seed=5)
    with pytest.raises(TrainingError, match=r"step \d+ is not finite: the embeddings 'one'") as error:
        train(made(), spiked(), run, folder=tmp_path)
    failure = json.loads((tmp_path / "failure" / "failure.json").read_text())
    assert str(tmp_path / "failure") in str(error.value)
    assert failure["not_finite"] == ["the embeddings 'one'"]
    step, [rows] = failure["step"], failure["rows"]
    assert 17 in rows
    assert rows == batch_of(epoch_order(ROWS, 5, 0), step - 1, 8).tolist()
    assert len(curve(tmp_path)) == step - 1

    method = made(seed=1)  # a new process: other weights, then those of the file
    method.load_state_dict(load_file(tmp_path / "failure" / "method.safetensors"))
    until = made()
    if step > 1:
        train(until, spiked(), replace(run, steps=step - 1))
    assert equal(weights(method), weights(until)), "the weights are those before the step"
    seed = step_seed(failure["seed"], step - 1, 0)
    batch = prepare_batch(method, spiked(), np.array(rows), seed)
    torch.manual_seed(seed)
    finite = torch.isfinite(method.embed(batch)["one"]).all(dim=1)
    assert finite.tolist() == [row != 17 for row in rows]
    healthy = [row for row in rows if row != 17]
    assert torch.isfinite(method.loss(prepare_batch(method, spiked(), np.array(healthy), seed))["info_nce"])


def test_a_loss_that_is_no_number_is_named() -> None:
    class Logged(Aligned):
        def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            return {**super().contrast(z, batch), "log": (z["one"].sum() * 0 - 1).log()}

    for kind in (Logged, type("Whole", (Logged,), {"loss": OnePiece.loss})):
        with pytest.raises(TrainingError, match=r"step 1 is not finite: loss term 'log'\."):
            train(made(kind), table(), settings())


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    class Rooted(Near):
        def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            return {"root": (0 * z["one"]).sum().sqrt()}

    method = made(Rooted)
    before = weights(method)
    with pytest.raises(TrainingError, match="step 1 is not finite: the gradient of") as error:
        train(method, table(), settings(), folder=tmp_path)
    assert "loss term" not in str(error.value)
    assert equal(weights(method), before)
    assert equal(load_file(tmp_path / "failure" / "method.safetensors"), before)


class Collapsed(Near):
    """Everything is nearly one point, or on one line."""

    line = False

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        z = super().embed(batch)
        if self.line:
            z["one"] = z["one"][:, :1] * torch.linspace(-1, 1, 5)
        else:
            z["two"] = 1 + 1e-3 * z["two"]
        return z


class OnALine(Collapsed):
    line = True


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Collapsed, "any two embeddings 'two' have cosine 1.000"), (OnALine, "embeddings 'one' lie on a line")],
)
def test_collapse_stops_with_a_plain_message(kind: type[Near], message: str, tmp_path: Path) -> None:
    chosen = settings(steps=10 * EVERY, learning_rate=1e-4)
    with pytest.raises(TrainingError, match=message) as error:
        train(made(kind), table(), chosen, folder=tmp_path)
    grace = round(GRACE * chosen.total_steps(ROWS))
    first = (grace // EVERY + 1) * EVERY
    assert f"collapsed at step {first + (LOOKS - 1) * EVERY}:" in str(error.value)
    assert "Likely causes" in str(error.value)
    assert len(curve(tmp_path)) < 10 * EVERY


def test_collapse_may_only_warn() -> None:
    run = train(made(Collapsed), table(), settings(steps=8 * EVERY, learning_rate=1e-4, on_collapse="warn"))
    assert run.steps == 8 * EVERY
    [warning] = run.warnings
    assert "the space has collapsed" in warning


class BesideFrozen(Near):
    """Beside what learns it embeds with a network that is frozen, to which all rows are alike."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().embed(batch), "frozen": torch.ones(len(batch["vector"]["values"]), 5)}


@pytest.mark.parametrize("cache_chunk", [None, 3])
def test_what_no_gradient_moves_is_not_looked_at(cache_chunk: int | None) -> None:
    chosen = settings(steps=6 * EVERY, cache_chunk=cache_chunk)
    assert train(made(BesideFrozen), table(), chosen).warnings == []
    with pytest.raises(TrainingError, match="embeddings 'two'"):
        train(
            made(Collapsed), table(), settings(steps=6 * EVERY, learning_rate=1e-4, cache_chunk=cache_chunk)
        )


class CollapsedPiece(Collapsed):
    """A loss that cannot be cut, which says what to look at."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        z = self.embed(batch)
        self.watched = {name: value.detach() for name, value in z.items()}
        return self.contrast(z, batch)


def test_of_a_loss_in_one_piece_what_it_leaves_is_looked_at() -> None:
    with pytest.raises(TrainingError, match="any two embeddings 'two'"):
        train(made(CollapsedPiece), table(), settings(steps=6 * EVERY, learning_rate=1e-4))


def test_a_healthy_run_raises_no_alarm() -> None:
    assert train(made(), table(), settings(steps=6 * EVERY)).warnings == []


def test_the_alarm_wants_several_looks_in_a_row() -> None:
    torch.manual_seed(0)
    spread, point = torch.randn(16, 4), torch.ones(16, 4) + 1e-4 * torch.randn(16, 4)
    alarm = CollapseAlarm("stop")
    for _ in range(3):
        for step in range(LOOKS - 1):
            alarm.look({"z": point}, step + 1)
        alarm.look({"z": spread}, LOOKS)
    alarm.look({"few": point[:4], "ids": torch.ones(16, 4, dtype=torch.int64), "scalar": point[:, 0]}, 1)
    assert alarm.looks == 0, "too few rows, integers and columns say nothing"
    for step in range(LOOKS - 1):
        alarm.look({"z": point}, step + 1)
    with pytest.raises(TrainingError):
        alarm.look({"z": point}, LOOKS)


def test_where_the_score_is_no_cosine_one_direction_is_no_collapse() -> None:
    torch.manual_seed(0)
    apart = torch.tensor([10.0, 0, 0, 0]) + 0.1 * torch.randn(32, 4)
    point = torch.tensor([10.0, 0, 0, 0]) + 1e-4 * torch.randn(32, 4)
    for geometry, x, alarmed in (
        ("cosine", apart, True),
        ("euclidean", apart, False),
        ("euclidean", point, True),
        ("lorentz", apart, False),
    ):
        alarm = CollapseAlarm("warn", geometry=geometry)
        for step in range(LOOKS):
            alarm.look({"one": x}, step + 1)
        assert bool(alarm.warning) is alarmed, geometry


def test_relative_spread_is_that_of_all_pairs() -> None:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) + 2
    distances = torch.cdist(x, x).square().sum() / (7 * 6)
    assert relative_spread(x) == pytest.approx(float(distances / (2 * x.square().sum(1).mean())), rel=1e-5)
    assert relative_spread(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)


def test_what_the_alarm_looks_at() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    cosines = torch.cosine_similarity(x[:, None], x[None], dim=-1)
    assert mean_cosine(x) == pytest.approx(float((cosines.sum() - 12) / (12 * 11)), abs=1e-5)
    assert effective_rank(x[:, :1] * torch.ones(3)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(4, rel=1e-4)


# -- watching --------------------------------------------------------------------------------------


def watched(values: list[float], better: str, **given: Any) -> tuple[Run, Near, list[dict[str, Tensor]]]:
    """Train with scripted measurements; returns the weights at each of them too."""
    method, states = made(), []

    def evaluate() -> dict[str, float]:
        states.append(weights(method))
        return {"sts": values[len(states) - 1], "other": 0.0}

    chosen = settings(**{"steps": 2 * len(values), "measure_every": 2, "watch": "sts", **given})
    return train(method, table(), chosen, evaluate=evaluate, watch_better=better), method, states


@pytest.mark.parametrize(
    ("values", "better", "kept"),
    [
        ([0.1, 0.4, 0.3, 0.4], "higher", 4),  # an equal value later is no improvement
        ([0.4, 0.1, 0.3, 0.2], "lower", 4),
        ([-3.0, 0.5, -0.2, 0.9], "closer_to_zero", 6),
        ([0.1, 0.2, 0.3, 0.4], "higher", 8),
        ([math.nan, 0.2, math.nan, 0.1], "higher", 4),
    ],
)
def test_the_best_weights_are_kept(values: list[float], better: str, kept: int) -> None:
    run, method, states = watched(values, better)
    assert (run.kept_step, run.steps, run.stopped) == (kept, 8, None)
    assert equal(weights(method), states[kept // 2 - 1])
    assert len(states) == 4


def test_patience_ends_the_run() -> None:
    run, method, states = watched([0.1, 0.4, 0.3, 0.2, 0.9, 0.9], "higher", patience=2)
    assert run.steps == len(run.losses) == 8
    assert run.stopped == "sts did not improve at 2 measurements in a row"
    assert run.kept_step == 4
    assert equal(weights(method), states[1])
    assert watched([0.1, 0.4, 0.3, 0.5, 0.4, 0.6], "higher", patience=2)[0].stopped is None


def test_an_unknown_measure_is_named_with_those_there_are() -> None:
    with pytest.raises(
        ArgumentError, match="watch 'map' is not measured on this table; measured are: sts, other"
    ):
        watched([0.1] * 4, "higher", watch="map")


def test_without_a_watch_the_last_weights_stay() -> None:
    assert Watch(None, "higher", 0).restore(made()) is None
    run, method, states = watched([0.9, 0.1], "higher", watch=None)
    assert run.kept_step is None
    assert equal(weights(method), states[-1])


# -- going on --------------------------------------------------------------------------------------


class Interrupted(Near):
    stop_at = 0

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        if step == self.stop_at:
            raise RuntimeError("killed")


def test_a_resumed_run_knows_all_of_its_losses_and_still_stops_early(tmp_path: Path) -> None:
    values = {4: 0.5, 8: 0.4, 12: 0.3, 16: 0.2, 20: 0.1}
    chosen = settings(steps=20, measure_every=4, watch="sts", patience=3, checkpoint_every=2)

    def run(folder: Path, stop_at: int, resume: bool) -> Run:
        method = made(Interrupted)
        method.stop_at = stop_at
        steps = iter([step for step in sorted(values) if not resume or step > 8])
        return train(
            method,
            table(),
            chosen,
            folder=folder,
            evaluate=lambda: {"sts": values[next(steps)]},
            resume=resume,
        )

    whole = run(tmp_path / "whole", 0, False)
    assert whole.steps == 16
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", 11, False)
    resumed = run(tmp_path / "cut", 0, True)
    assert resumed.losses == whole.losses == curve(tmp_path / "cut")
    assert (resumed.steps, resumed.kept_step, resumed.stopped) == (16, 4, whole.stopped)
    [checkpoint] = (tmp_path / "cut" / "checkpoints").iterdir()
    assert json.loads((checkpoint / "progress.json").read_text())["losses"] == whole.losses[:16]


def test_a_resumed_run_goes_on_with_the_scale_of_its_gradients(tmp_path: Path) -> None:
    chosen = settings(steps=8, precision="16-mixed", checkpoint_every=2)

    def run(folder: Path, stop_at: int, resume: bool) -> dict[str, Any]:
        method = made(Interrupted)
        method.stop_at = stop_at
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))
        train(method, table(), chosen, folder=folder, resume=resume, fabric=fabric)
        return scaler.state_dict()

    whole = run(tmp_path / "whole", 0, False)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", 5, False)
    assert run(tmp_path / "cut", 0, True) == whole
    assert whole["scale"] == 1024.0, "it has grown twice"


class Mining(Interrupted):
    """Before each epoch, finds the mean of the table's embeddings, and pulls everything towards it."""

    def before_epoch(self, table: Table, embed: Embed) -> None:
        self.mean = embed(table, "vector").mean(0)

    def space(self) -> Space:
        return Space({"vector": self.encoder}, {"vector": self.head})

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {**super().contrast(z, batch), "pull": (z["one"] - self.mean).square().mean()}


class MiningBySteps(Mining):
    """The same before every fifth step, the epochs aside; and notes when and with which random state."""

    def before_epoch(self, table: Table, embed: Embed) -> None:
        self.calls.append(("epoch", float(torch.rand(()))))

    def refreshes(self, steps: int) -> range:
        return range(0, steps, 5)

    def refresh(self, table: Table, embed: Embed, step: int, steps: int) -> None:
        self.mean = embed(table, "vector").mean(0)
        self.calls.append((step, steps, float(torch.rand(()))))


@pytest.mark.parametrize(
    ("kind", "given", "stop_at"),
    [
        (Mining, {"checkpoint_every": 4}, 9),  # six steps an epoch: checkpoint 8 is within the second
        (
            Mining,
            {"checkpoint_every": 2, "accumulate": 4},
            3,
        ),  # step 2 is the first of the second, by its batch 3
        (MiningBySteps, {"checkpoint_every": 4}, 9),  # found at 5, lost at 8
        (MiningBySteps, {"checkpoint_every": 5}, 11),  # found at the checkpoint's own step
        (MiningBySteps, {"checkpoint_every": 3, "accumulate": 4}, 8),
    ],
)
def test_what_was_mined_is_mined_again_with_the_weights_of_then(
    kind: type[Mining], given: dict[str, Any], stop_at: int, tmp_path: Path
) -> None:
    chosen = settings(steps=15, **given)

    def run(folder: Path, stop_at: int, resume: bool) -> tuple[Run, Near]:
        method = made(kind)
        method.stop_at = stop_at
        return train(method, table(), chosen, folder=folder, resume=resume), method

    whole, method = run(tmp_path / "whole", 0, False)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", stop_at, False)
    resumed, again = run(tmp_path / "cut", 0, True)
    assert resumed.losses == whole.losses
    assert equal(weights(method), weights(again))
    assert again.calls == method.calls[-len(again.calls) :]


def test_mining_by_steps_is_called_where_it_is_said_and_never_while_a_batch_is_prepared() -> None:
    class Watching(MiningBySteps):
        def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
            self.calls.append(tuple(rows))
            return super().examples(table, rows)

    method = made(Watching)
    train(method, table(), settings(steps=12))
    kinds = ["batch" if len(call) == 8 else call[0] for call in method.calls]
    assert kinds == ["epoch", 0, *["batch"] * 5, 5, "batch", "epoch", *["batch"] * 4, 10, *["batch"] * 2]
    found = [call for call in method.calls if len(call) == 3]
    assert {steps for _, steps, _ in found} == {12}
    assert len({drawn for *_, drawn in found}) == 3


def test_a_step_that_the_run_does_not_have_is_refused() -> None:
    class Late(MiningBySteps):
        def refreshes(self, steps: int) -> range:
            return range(0, steps + 1, 5)

    with pytest.raises(ArgumentError, match="names step 10; the run has steps 0 to 9"):
        train(made(Late), table(), settings(steps=10))


def test_a_run_that_had_stopped_early_stays_stopped(tmp_path: Path) -> None:
    chosen = settings(steps=20, measure_every=2, watch="sts", patience=1, checkpoint_every=2)
    values = iter([0.5, 0.4, 0.9, 0.9])

    def run(resume: bool) -> Run:
        evaluate = lambda: {"sts": next(values)}  # noqa: E731
        return train(made(), table(), chosen, folder=tmp_path, evaluate=evaluate, resume=resume)

    first, second = run(False), run(True)
    assert first.stopped is not None
    assert (second.steps, second.stopped, second.losses) == (first.steps, first.stopped, first.losses)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 1.0}, "exactly one of steps and epochs"),
        ({"steps": None}, "exactly one of steps and epochs"),
        ({"steps": 0}, "steps must be greater than 0, not 0"),
        ({"steps": None, "epochs": -1.0}, "epochs must be greater than 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"accumulate": 0}, "accumulate must be greater than 0"),
        ({"cache_chunk": 0}, "cache_chunk must be greater than 0"),
        ({"warmup": 1.0}, "warmup is a share of the steps"),
        ({"watch": "sts"}, "need measure_every"),
        ({"patience": 2}, "need measure_every"),
        ({"patience": 2, "measure_every": 5}, "patience needs watch"),
        ({"schedule": "step"}, "schedule must be one of linear, cosine, constant, not 'step'"),
        ({"precision": "64-true"}, "precision must be one of 32-true, 16-mixed, bf16-mixed"),
        ({"on_collapse": "ignore"}, "on_collapse must be one of stop, warn"),
        ({"logs": "wandb"}, "logs must be one of csv, tensorboard"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        settings(**given)


def test_what_does_not_fit_table_method_or_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TableError, match=r"memory has 5 rows, fewer than one batch of 8.*--batch-size 5"):
        train(made(), table(5), settings())
    with pytest.raises(
        ArgumentError, match=r"OnePiece computes its loss in one piece: it cannot use cache_chunk"
    ):
        train(made(OnePiece), table(), settings(cache_chunk=4))
    with pytest.raises(ArgumentError, match="measure_every needs rows to measure on"):
        train(made(), table(), settings(measure_every=2))
    monkeypatch.setattr(trainer, "process_count", lambda: 3)
    with pytest.raises(ArgumentError, match="batch_size 8 cannot be shared by 3 processes"):
        train(made(), table(), settings())


def test_a_loss_in_one_piece_trains_as_the_cut_one_does() -> None:
    one, cut = made(OnePiece), made()
    assert train(one, table(), settings()).losses == train(cut, table(), settings()).losses
    assert equal(weights(one), weights(cut))


def test_a_method_says_what_it_must_implement() -> None:
    with pytest.raises(TypeError, match="Half must implement embed and contrast, loss where"):

        class Half(Method):
            def embed(self, batch: Batch) -> dict[str, Tensor]:
                return {}


class Windows(Near):
    """Batches are consecutive rows."""

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return np.arange(rows)

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        self.calls.append(np.stack(rows["vector"]))
        return super().prepare(rows, generator)


def test_a_method_may_say_who_meets_whom() -> None:
    method = made(Windows)
    train(method, table(), settings(steps=12))
    rows = np.stack(table().column("vector")).reshape(6, 8, 4)
    for number, batch in enumerate(method.calls[:12]):
        np.testing.assert_array_equal(batch, rows[number % 6])


class Centre(Method):
    """A space moved to the mean of the training rows: fitted in closed form."""

    reads = {"vector": Vector}

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MLPVector(4, 8, 4, layers=1)
        self.head = Projection(4, 4)

    def solve(self, table: Table, embed: Embed) -> None:
        nn.init.eye_(self.head.map[0].weight)
        nn.init.zeros_(self.head.map[0].bias)
        mean = embed(table, "vector").mean(0)
        with torch.no_grad():
            self.head.map[0].bias.copy_(-mean)

    def space(self) -> Space:
        return Space({"vector": self.encoder}, {"vector": self.head}, "dot")


def test_a_method_may_weigh_its_terms() -> None:
    class Weighed(Aligned):
        def total(self, terms: dict[str, Tensor]) -> Tensor:
            return terms["align"]  # as if "size" weighed nothing

    class WithoutSize(Aligned):
        def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            return {"align": alignment(z["one"], z["two"])}

    for cache_chunk in (None, 3):
        runs = [made(kind) for kind in (Weighed, WithoutSize)]
        losses = [train(one, table(), settings(cache_chunk=cache_chunk)).losses for one in runs]
        assert equal(*map(weights, runs))
        assert losses[0] == losses[1]  # what is minimised is what is shown


def test_a_method_may_look_at_other_rows_than_those_of_its_batch() -> None:
    class Next(Near):
        def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
            own, others = table.rows(rows), table.rows((rows + 1) % len(table))
            return {"vector": own["vector"], "positive": others["vector"]}

    vectors = table().column("vector")
    shifted = Table.from_columns(
        {"vector": np.stack(vectors), "positive": np.roll(np.stack(vectors), -1, axis=0)}
    )
    one, two = made(Next), made(Near)
    train(one, table(), settings())
    train(two, shifted, settings())
    assert equal(weights(one), weights(two))


def test_a_method_may_take_the_whole_table_as_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(Near):
        whole_table = True

        def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
            self.calls.append(np.stack(rows["vector"]))
            return super().prepare(rows, generator)

    method = made(Whole)
    run = train(method, table(), settings(steps=None, epochs=3.0))
    assert run.steps == 3
    for seen in method.calls:
        assert np.array_equal(
            seen, np.stack(table().column("vector"))
        )  # in order, so that links between rows hold
    with pytest.raises(ArgumentError, match="whole table"):
        train(made(Whole), table(), settings(cache_chunk=4))
    monkeypatch.setattr("nearfar.training.trainer.process_count", lambda: 2)
    with pytest.raises(ArgumentError, match="train it in one process"):
        train(made(Whole), table(), settings())


def test_a_method_may_be_fitted_in_closed_form() -> None:
    torch.manual_seed(0)
    method = Centre()
    run = train(method, table(), settings())
    assert (run.steps, run.losses) == (0, [])
    moved = method.space().encode(table().column("vector"))
    np.testing.assert_allclose(moved.mean(0), 0, atol=1e-6)
    assert moved.std() > 0.01


# -- the loader ------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def test_items_are_made_ahead_in_order_but_not_far() -> None:
    asked: list[int] = []
    items = ahead(lambda n: asked.append(n) or n * n, range(10, 30))
    assert next(items) == 100
    wait_for(lambda: len(asked) >= 1 + AHEAD)
    time.sleep(0.05)
    assert len(asked) <= 2 + AHEAD
    assert list(items) == [n * n for n in range(11, 30)]
    assert asked == list(range(10, 30))


def test_an_error_in_the_background_is_raised_at_its_item() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise TableError("row 17 is bad")
        return number

    items = ahead(make, range(9))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TableError, match="row 17"):
        next(items)


def test_the_thread_ends_with_the_loop_that_it_serves() -> None:
    before = threading.active_count()
    for item in ahead(lambda number: number, range(1000)):
        if item == 3:
            break
    wait_for(lambda: threading.active_count() == before)


def test_seeds_differ_between_steps_ranks_and_seeds() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(5) for step in range(20) for rank in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.manual_seed(max(seeds))


def test_only_tensors_move() -> None:
    batch = {"text": {"ids": torch.ones(2)}, "label": torch.zeros(2), "names": ["a", "b"]}
    moved = to_device(batch, torch.device("meta"))
    assert moved["text"]["ids"].device.type == moved["label"].device.type == "meta"
    assert moved["names"] == ["a", "b"]
