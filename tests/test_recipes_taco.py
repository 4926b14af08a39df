"""How the experiment of TACO judges a space and an agent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.data.table import Table
from nearfar.encoders.image import ConvNet
from nearfar.methods.control.taco import TACO
from nearfar.recipes.taco import ACTING, Curl, WithoutActions, _found
from nearfar.training.reinforcement import AgentSettings

STEPS = 36


def table() -> Table:
    columns = {
        "action": np.random.default_rng(0).uniform(-1, 1, (STEPS, 1)).astype(np.float32),
        "episode": [step // 12 for step in range(STEPS)],
    }
    return Table.from_columns(columns, {role: TACO.reads[role] for role in columns})  # type: ignore[misc]


class Oracle(nn.Module):
    """Points at the state some steps on, where it sees the true actions."""

    def __init__(self, ahead: int, actions: Tensor | None) -> None:
        super().__init__()
        self.ahead, self.actions = ahead, actions

    def score(self, states: Tensor) -> Tensor:
        return states.roll(self.ahead, dims=1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        if self.actions is not None:
            right = torch.stack([self.actions[i : i + 3] for i in states.argmax(dim=1).tolist()])
            assert torch.equal(actions, right)
        return self.score(states)


@pytest.mark.parametrize(("ahead", "found"), [(3, 1.0), (0, 0.0), (2, 0.0)])
def test_the_own_future_must_come_first_among_all_rows(ahead: int, found: float) -> None:
    made, z = TACO(ConvNet(8, 4, 2)), np.eye(STEPS, dtype=np.float32)
    made.dynamics = Oracle(ahead, torch.from_numpy(np.stack(table().column("action"))))  # type: ignore[assignment]
    assert _found(made, z, table()) == found


def test_the_baselines_are_asked_without_actions() -> None:
    z = np.eye(STEPS, dtype=np.float32)
    for kind in (Curl, WithoutActions):
        made = kind(ConvNet(8, 4, 2))
        made.dynamics = Oracle(3, torch.zeros(STEPS, 1))  # type: ignore[assignment]
        assert _found(made, z, table()) == 1


def test_the_settings_of_the_agent_are_valid() -> None:
    assert AgentSettings(**ACTING).restraint > 0
