"""Does what follows an action teach a space the state of a pendulum, and an agent to swing it up?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.windows import windows
from nearfar.data.kinds import Vector
from nearfar.data.splits import holdout
from nearfar.data.table import Table, read_table
from nearfar.encoders.image import ConvNet
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.probes import ridge_probe
from nearfar.measures.retrieval import ranking_metrics
from nearfar.method import Batch
from nearfar.methods.control.taco import TACO
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

TABLE = "env:Pendulum-v1@4000"
SETTINGS: dict[str, Any] = {"steps": 500, "batch_size": 128, "learning_rate": 1e-3, "on_collapse": "warn"}
SMALL: dict[str, Any] = {"hidden": 256, "pad": 2}
WIDTH = 8


class Curl(TACO):
    """A baseline: two shifts of one picture are near, and nothing else is learned."""

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"curl": super().contrast(z, batch)["curl"]}


class WithoutActions(TACO):
    """A baseline: the future must be told from the state alone."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return super().embed({**batch, "action": torch.zeros_like(batch["action"])})


def experiment(data: DataFolder) -> Experiment:
    """Part A: 4,000 time steps of Pendulum-v1, linear probes of the state and retrieval three steps on."""
    table = read_table(TABLE, reads={**TACO.reads, "state": Vector})
    training, test = (table.select(rows) for rows in holdout(table, 0.2, seed=0))

    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms={
            "not trained": partial(_space, None, training, test),
            "curl": partial(_space, Curl, training, test),
            "no actions": partial(_space, WithoutActions, training, test),
            "taco": partial(_space, TACO, training, test),
        },
        claims=(
            Claim(
                "the future under actions teaches velocity better than two views of now",
                "taco",
                "curl",
                "velocity R2",
            ),
        ),
        examples={},
    )


def _space(kind: type[TACO] | None, training: Table, test: Table, seed: int) -> dict[str, float]:
    """Train a space; how much of the state it tells, and whether it finds the state three steps on."""
    torch.manual_seed(seed)
    made = (kind or TACO)(ConvNet(width=WIDTH), **SMALL)
    if kind is None:
        made.begin(training)
    else:
        train(made, training, Settings(seed=seed, **SETTINGS))
    space = made.space()
    z, unseen = (space.encode(side.column("image"), normalize=False) for side in (training, test))
    states, truth = (np.stack(side.column("state")) for side in (training, test))
    explained = ridge_probe(z, states, unseen, truth)
    return {
        "velocity R2": float(explained[2]),
        "angle R2": float(explained[:2].mean()),
        "retrieval at 3 steps": _found(made, unseen, test),
    }


@torch.no_grad()
def _found(made: TACO, z: np.ndarray, table: Table) -> float:
    """Share of the rows whose own future is first among all rows, by the space's own score.

    Two views of a picture know no actions: their score is asked whether it finds the future from the state.
    """
    assert made.dynamics is not None
    numbers = np.array(table.row_numbers(np.arange(len(table))))
    found = windows(np.array(table.column("episode")), 0, made.horizon, numbers)
    now, actions = (
        torch.from_numpy(z)[found[:, 0]],
        torch.from_numpy(np.stack(table.column("action")))[found[:, :-1]],
    )
    if isinstance(made, WithoutActions):
        actions = torch.zeros_like(actions)
    queries = made.dynamics.score(now) if isinstance(made, Curl) else made.dynamics(now, actions)
    ranked = (queries @ torch.from_numpy(z).T).argsort(dim=1, descending=True)[:, :10].numpy()
    return ranking_metrics(ranked, found[:, -1:].tolist())["recall@1"]
