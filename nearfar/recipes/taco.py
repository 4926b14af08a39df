"""Does what follows an action teach a space the state of a pendulum, and an agent to swing it up?"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nearfar.batching.windows import windows
from nearfar.data.environments import PixelControl
from nearfar.data.kinds import Vector
from nearfar.data.splits import holdout
from nearfar.data.table import Table, read_table
from nearfar.encoders.image import ConvNet
from nearfar.experiment import Claim, DataFolder, Experiment
from nearfar.measures.probes import ridge_probe
from nearfar.measures.retrieval import ranking_metrics
from nearfar.method import Batch
from nearfar.methods.control.taco import TACO
from nearfar.training.reinforcement import AgentSettings, train_agent
from nearfar.training.settings import Settings
from nearfar.training.trainer import train

TABLE = "env:Pendulum-v1@4000"
SETTINGS: dict[str, Any] = {"steps": 250, "batch_size": 256, "learning_rate": 1e-3, "on_collapse": "warn"}
ACTING: dict[str, Any] = {
    "steps": 1500,
    "random_steps": 300,
    "update_every": 1,
    "batch_size": 64,
    "contrast_size": 64,
    "learning_rate": 5e-4,
    "restraint": 0.03,
    "discount": 0.95,
    "follow": 0.05,
    "noise_share": 0.3,
    "hidden": 256,
    "pad": 2,
}
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
    """Part A: spaces from 4,000 time steps of Pendulum-v1. Part B: an agent, with the loss and without.

    Test episodes come in neither training nor the fit of the probes.
    """
    table = read_table(TABLE, reads={**TACO.reads, "state": Vector})
    training, test = (table.select(rows) for rows in holdout(table, 0.2, seed=0))
    velocity, found, earned = "velocity R2", "retrieval at 3 steps", "mean return"
    rows = SETTINGS["steps"] * SETTINGS["batch_size"]
    updates = (ACTING["steps"] - ACTING["random_steps"]) * ACTING["batch_size"]
    return Experiment(
        data={"training": training.fingerprint, "test": test.fingerprint},
        arms={
            "not trained": partial(_space, None, training, test),
            "curl": partial(_space, Curl, training, test),
            "no actions": partial(_space, WithoutActions, training, test),
            "taco": partial(_space, TACO, training, test),
            "agent": partial(_agent, False),
            "agent with taco": partial(_agent, True),
        },
        claims=(
            Claim(
                "the future under actions teaches velocity better than two views of now",
                "taco",
                "curl",
                velocity,
            ),
            Claim(
                "the future teaches velocity better where the actions are known",
                "taco",
                "no actions",
                velocity,
            ),
            Claim("known actions tell which future is the right one", "taco", "no actions", found),
            Claim("a trained space finds the future better than two views of now do", "taco", "curl", found),
            Claim(
                "learning tells velocity better than a network that has learned nothing",
                "taco",
                "not trained",
                velocity,
            ),
            Claim(
                "an agent earns more while it learns with the loss than without",
                "agent with taco",
                "agent",
                earned,
            ),
        ),
        examples={
            "not trained": 0,
            **dict.fromkeys(("curl", "no actions", "taco"), rows),
            **dict.fromkeys(("agent", "agent with taco"), updates),
        },
        deviations=(
            "Pendulum-v1 (pictures of 48 x 48, three grey frames, half of the episodes random, half scripted) in "
            "place of nine tasks of the DeepMind control suite at 84 x 84",
            f"a network of four layers from {WIDTH} channels with group norm at 32 x 32, heads of 256 units, shifts "
            f"of 2 pixels; AdamW at 1e-3, {SETTINGS['steps']} steps of {SETTINGS['batch_size']} (the paper: Adam at "
            "1e-4, batches of 1,024)",
            "returns are standardised in the method, rewards by those of the random phase in the agent: Pendulum pays "
            "from -33 to 0 for an action",
            f"part B: {ACTING['steps']:,} actions in place of 500,000 and more, an update for every action, batches of "
            f"{ACTING['batch_size']} for both losses, rate {ACTING['learning_rate']}, discount {ACTING['discount']}, "
            f"the slow copy takes over {ACTING['follow']} of the critic, restraint {ACTING['restraint']}: chosen by "
            "runs of the agent without TACO on a seed that is not reported, by whether its actions depend on the state",
            "the agent without TACO reads actions through the same codes, so that only the loss differs",
            "offline variants (TD3+BC, CQL, IQL) are not run",
        ),
    )


def _agent(contrast: bool, seed: int) -> dict[str, float]:
    """Mean return of the episodes in which an agent learns, and of the last ten."""
    torch.manual_seed(seed)
    method = TACO(ConvNet(width=WIDTH), **SMALL)
    run = train_agent(
        PixelControl("Pendulum-v1", size=32), method, AgentSettings(seed=seed, **ACTING), contrast=contrast
    )
    return {
        "mean return": run.area,
        "last ten returns": float(np.mean([value for _, value in run.returns[-10:]])),
    }


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
