"""Alternating optimisation: who learns in which turn, by which optimiser, and that a run can be resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.data.kinds import Vector
from nearfar.data.table import Table
from nearfar.encoders.vector import MLPVector
from nearfar.errors import ArgumentError, TrainingError
from nearfar.method import Batch, Method, Stage, Turn
from nearfar.space import Space
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

BETAS = (0.5, 0.99)


class Game(Method):
    """One side draws a point to where the other side's line is highest, the other side turns the line away.

    `shared` moves in both turns.
    """

    reads = {"vector": Vector}

    def __init__(self, critic: dict[str, Any] | None = None, noise: float = 0.0) -> None:
        super().__init__()
        self.encoder = MLPVector(3, 4, 3, layers=1, dropout=0.0)
        self.encoder.requires_grad_(False)
        self.point, self.line = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.arange(6.0).view(2, 3))
        self.shared = nn.Parameter(torch.tensor([2.0]))
        self.critic, self.noise = critic or {}, noise
        self.seen: list[tuple[str, bool, float]] = []
        self.stop_at = 0

    def value(self, batch: Batch, who: str) -> dict[str, Tensor]:
        asked = (self.point.requires_grad, self.line.requires_grad)
        assert asked == ((False, True) if who == "line" else (True, False))
        drawn = float(torch.rand(()))
        self.seen.append((who, self.training, drawn))
        height = (self.point * self.line).sum() * self.shared.squeeze() + batch["vector"]["x"].mean()
        return {"height": (height - 3).square(), "size": self.noise * drawn * self.point.square().sum()}

    def turns(self) -> list[Turn]:
        def line(batch: Batch) -> dict[str, Tensor]:
            terms = self.value(batch, "line")
            return {"height": -0.1 * terms["height"] + self.line.square().sum()}

        return [
            Turn("line", [self.line, self.shared], line, **{"betas": BETAS, **self.critic}),
            Turn(
                "point", [self.point, self.shared], lambda batch: self.value(batch, "point"), BETAS, rate=0.5
            ),
        ]

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        return {"vector": {"x": torch.tensor(np.stack(rows["vector"]))}}

    def negatives(self, batch_size: int) -> int:
        return 0

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        assert z == {}
        if step == self.stop_at:
            raise RuntimeError("killed")

    def space(self) -> Space:
        return Space({"vector": self.encoder})


def table() -> Table:
    vectors = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
    return Table.from_columns({"vector": vectors})


def settings(**given: Any) -> Settings:
    chosen = {"steps": 5, "batch_size": 24, "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0}
    return Settings(**{**chosen, "clip_norm": 0.0, "weight_decay": 0.0, **given})


def weights(game: Game) -> list[Tensor]:
    return [game.point.detach().clone(), game.line.detach().clone(), game.shared.detach().clone()]


def by_hand(steps: int, times: int = 1, fresh: int = 0, data: Table | None = None) -> list[Tensor]:
    """The same game with two optimisers of PyTorch, in a loop without nearfar; `line` has a new one every few steps."""
    point, line = torch.ones(2, 3, requires_grad=True), torch.arange(6.0).view(2, 3).requires_grad_()
    shared = torch.tensor([2.0], requires_grad=True)
    own = {
        "line": torch.optim.Adam([line, shared], 0.1, BETAS),
        "point": torch.optim.Adam([point, shared], 0.05, BETAS),
    }
    mean = torch.tensor(np.stack((data or table()).column("vector"))).mean()
    for step in range(steps):
        if fresh and step % fresh == 0:
            own["line"] = torch.optim.Adam([line, shared], 0.1, BETAS)
        for who in ["line"] * times + ["point"]:
            height = ((point * line).sum() * shared.squeeze() + mean - 3).square()
            loss = height if who == "point" else -0.1 * height + line.square().sum()
            for parameter in (point, line, shared):
                parameter.grad = None
            loss.backward()
            own[who].step()
    return [point.detach(), line.detach(), shared.detach()]


@pytest.mark.parametrize("times", [1, 3])
def test_turns_are_two_optimisers_in_alternation(times: int) -> None:
    """A parameter that moves in both turns has moments of its own in each: one optimiser would mix them."""
    game = Game({"times": times})
    train(game, table(), settings())
    for got, expected in zip(weights(game), by_hand(5, times), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert [who for who, _, _ in game.seen] == (["line"] * times + ["point"]) * 5
    assert all(training for _, training, _ in game.seen)


def test_a_fresh_turn_forgets_its_moments_at_every_epoch_and_the_other_one_does_not() -> None:
    """24 equal rows in batches of 12: two steps an epoch, whose order says nothing."""
    data = Table.from_columns({"vector": np.tile(np.float32([0.5, -1.0, 2.0]), (24, 1))})
    game, kept = Game({"fresh": True}), Game()
    for one in (game, kept):
        train(one, data, settings(batch_size=12))
    for got, expected in zip(weights(game), by_hand(5, fresh=2, data=data), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(game.line, kept.line)


def test_every_turn_draws_its_own_random_numbers_and_a_run_can_be_repeated() -> None:
    first, again, other = Game({"times": 2}), Game({"times": 2}), Game({"times": 2})
    for game, seed in ((first, 0), (again, 0), (other, 1)):
        train(game, table(), settings(seed=seed))
    drawn = [number for _, _, number in first.seen]
    assert len(set(drawn)) == 15
    assert drawn == [number for _, _, number in again.seen]
    assert not set(drawn) & {number for _, _, number in other.seen}


def test_what_is_frozen_stays_so_and_nothing_keeps_a_gradient() -> None:
    game = Game()
    before = [parameter.clone() for parameter in game.encoder.parameters()]
    train(game, table(), settings())
    assert [name for name, p in game.named_parameters() if p.requires_grad] == ["point", "line", "shared"]
    assert all(parameter.grad is None for parameter in game.parameters())
    assert all(torch.equal(p, old) for p, old in zip(game.encoder.parameters(), before, strict=True))


def test_gradients_are_clipped_turn_by_turn() -> None:
    """Adam does not mind the scale of a gradient that stays the same, so one step without its memory shows it."""
    moved = []
    for clip in (0.0, 1e-9):  # so small that Adam's epsilon of 1e-8 holds the step back
        game = Game()
        before = weights(game)
        train(game, table(), settings(steps=1, clip_norm=clip))
        moved.append([float((new - old).abs().max()) for new, old in zip(weights(game), before, strict=True)])
    free, held = moved
    assert min(free) > 0.04
    assert all(slow < fast / 5 for slow, fast in zip(held, free, strict=True))


def test_the_log_has_the_terms_of_each_turn_and_their_sum(tmp_path: Path) -> None:
    run = train(Game(noise=1.0), table(), settings(), folder=tmp_path)
    with open(tmp_path / "log.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "loss", "line/height", "point/height", "point/size", "learning_rate"]
    for row, loss in zip(rows, run.losses, strict=True):
        parts = [float(row[name]) for name in ("line/height", "point/height", "point/size")]
        assert sum(parts) == pytest.approx(float(row["loss"]), rel=1e-5)
        assert float(row["loss"]) == loss


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("killed_at", [3, 7])
def test_a_resumed_run_is_the_run_that_was_never_killed(tmp_path: Path, killed_at: int, fresh: bool) -> None:
    chosen = settings(steps=12, batch_size=5, checkpoint_every=2)

    def run(folder: Path, stop_at: int) -> tuple[list[float], list[Tensor]]:
        game = Game({"times": 2, "fresh": fresh}, noise=1.0)
        game.stop_at = stop_at
        return train(game, table(), chosen, folder=folder, resume=True).losses, weights(game)

    whole, expected = run(tmp_path / "whole", 0)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "cut", killed_at)
    resumed, got = run(tmp_path / "cut", 0)
    assert resumed == whole
    assert all(torch.equal(one, two) for one, two in zip(got, expected, strict=True))


def test_stages_freeze_within_turns() -> None:
    class Staged(Game):
        def value(self, batch: Batch, who: str) -> dict[str, Tensor]:
            self.seen.append((who, self.line.requires_grad, 0.0))
            return {"height": ((self.point * self.line).sum() * self.shared.squeeze() - 3).square()}

        def stages(self) -> list[Stage]:
            return [Stage("first", 0.5, [self.point, self.shared]), Stage("second", 0.5)]

    game = Staged()
    train(game, table(), settings(steps=4))
    assert [(who, learns) for who, learns, _ in game.seen] == (
        [("line", False), ("point", False)] * 2 + [("line", True), ("point", False)] * 2
    )


def test_batches_whose_gradients_are_added_are_added_within_a_turn() -> None:
    one, two = Game(), Game()
    train(one, table(), settings(steps=3, batch_size=24))
    train(two, table(), settings(steps=3, batch_size=12, accumulate=2))
    assert [who for who, _, _ in two.seen] == ["line", "line", "point", "point"] * 3
    # The mean of squares is no square of means: near, not equal.
    for got, expected in zip(weights(two), weights(one), strict=True):
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.02)


def test_a_turn_that_is_no_number_is_named(tmp_path: Path) -> None:
    class Broken(Game):
        def value(self, batch: Batch, who: str) -> dict[str, Tensor]:
            terms = super().value(batch, who)
            return {"log": (0 * self.point.sum() - 1).log()} if who == "point" else terms

    with pytest.raises(TrainingError, match=r"step 1 is not finite: loss term 'point/log'"):
        train(Broken(), table(), settings(), folder=tmp_path)
    assert json.loads((tmp_path / "failure" / "failure.json").read_text())["turn"] == "point"


def test_turns_that_make_no_sense_are_refused() -> None:
    class Idle(Game):
        def turns(self) -> list[Turn]:
            return super().turns()[1:]

    class Twice(Game):
        def turns(self) -> list[Turn]:
            return [*super().turns(), *super().turns()]

    with pytest.raises(ArgumentError, match=r"line of Idle learns in no turn.*requires_grad_\(False\)"):
        train(Idle(), table(), settings())
    with pytest.raises(ArgumentError, match="two turns 'line'"):
        train(Twice(), table(), settings())
    with pytest.raises(ArgumentError, match="in one piece: it cannot use cache_chunk"):
        train(Game(), table(), settings(cache_chunk=4))


def test_the_loss_of_a_method_with_turns_is_that_of_all() -> None:
    class Loose(Game):
        def value(self, batch: Batch, who: str) -> dict[str, Tensor]:
            return {"height": self.point.sum()}

    game = Loose()
    terms = game.loss({})
    assert list(terms) == ["line/height", "point/height"]
    assert float(terms["point/height"].detach()) == 6.0
