"""Tables made by acting, and what is seen there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nearfar.data.environments import PixelControl
from nearfar.data.kinds import Id, Image, Label, Number, Vector
from nearfar.data.splits import holdout
from nearfar.data.table import Table, read_table
from nearfar.errors import ArgumentError, MissingExtra, TableError

READS: Any = {
    "image": Image,
    "action": Vector,
    "reward": Number,
    "episode": Id,
    "state": Vector,
    "split": Label,
}


@pytest.fixture(scope="module")
def pendulum() -> Table:
    return read_table("env:Pendulum-v1@520", reads=READS)


def test_rows_are_time_steps_of_whole_episodes(pendulum: Table) -> None:
    assert len(pendulum) == 520
    episodes = np.array(pendulum.column("episode"))
    assert episodes.tolist() == sorted(episodes.tolist())
    assert set(np.bincount(episodes)[:-1]) == {100}, "200 steps of the environment, two for one action"
    train, test = holdout(pendulum, 0.5, seed=0)
    assert set(episodes[test]) == {4}
    assert not set(episodes[train]) & set(episodes[test])
    actions = np.stack(pendulum.column("action"))
    assert actions.shape == (520, 1)
    assert actions.min() >= -1
    assert actions.max() <= 1
    assert 0.3 < np.abs(actions).mean() < 0.9


def test_channels_are_the_last_three_frames_oldest_first(pendulum: Table) -> None:
    pictures = np.stack([np.asarray(picture) for picture in pendulum.column("image")])
    assert pictures.shape == (520, 48, 48, 3)
    episodes = np.array(pendulum.column("episode"))
    within = episodes[1:] == episodes[:-1]
    assert np.array_equal(pictures[1:][within][..., :2], pictures[:-1][within][..., 1:])
    first = np.flatnonzero(np.diff(episodes)) + 1
    assert (pictures[first][..., 0] == pictures[first][..., 2]).all(), "nothing of the episode before"
    moving = np.abs(np.stack(pendulum.column("state"))[:, 2]) > 2
    differ = (pictures[..., 0] != pictures[..., 2]).any(axis=(1, 2))
    assert differ[moving & (np.arange(520) % 100 > 2)].all()


def test_a_row_holds_what_was_seen_before_its_action_and_the_reward_after(pendulum: Table) -> None:
    """Replaying the actions from the seed of the episode gives the same pictures, states and rewards."""
    control = PixelControl("Pendulum-v1")
    seen = control.reset(seed=1)
    rows = pendulum.rows(range(100, 130))
    for picture, state, action, reward in zip(
        rows["image"], rows["state"], rows["action"], rows["reward"], strict=True
    ):
        assert np.array_equal(np.asarray(picture), seen)
        np.testing.assert_allclose(state, control.state)
        seen, earned, _, _ = control.step(action)
        assert reward == pytest.approx(earned)


def test_the_script_swings_the_pendulum_up(pendulum: Table) -> None:
    rewards, episodes = np.array(pendulum.column("reward")), np.array(pendulum.column("episode"))
    late = np.arange(520) % 100 > 60
    scripted, drawn = rewards[late & (episodes % 2 == 1)], rewards[late & (episodes % 2 == 0)]
    assert scripted.mean() > drawn.mean() / 2


def test_a_picture_does_not_tell_the_action() -> None:
    """Pendulum draws an arrow as long as the last torque."""
    frames = []
    for push in (-1.0, 1.0):
        control = PixelControl("Pendulum-v1")
        control.reset(seed=0)
        control.step(np.array([push]))
        control.environment.unwrapped.state = np.array([0.5, 0.0])
        frames.append(control._frame())
    assert np.array_equal(*frames)


def test_choices_are_vectors_with_one_entry_each() -> None:
    table = read_table("env:Acrobot-v1@30", reads=READS)
    actions = np.stack(table.column("action"))
    assert actions.shape == (30, 3)
    assert (actions.sum(axis=1) == 1).all()
    assert set(np.unique(actions)) == {0, 1}
    control = PixelControl("Acrobot-v1", size=16, repeat=1)
    assert control.reset(seed=0).shape == (16, 16, 3)
    control.step(np.array([0, 0, 1.0]))
    pushed = control.state.copy()
    control.reset(seed=0)
    control.step(np.array([1.0, 0, 0]))
    assert not np.allclose(pushed, control.state)


def test_the_same_name_gives_the_same_table_and_a_number_its_beginning(pendulum: Table) -> None:
    assert read_table("env:Pendulum-v1@520", reads=READS).fingerprint == pendulum.fingerprint
    fewer = read_table("env:Pendulum-v1@20", reads=READS)
    assert fewer.fingerprint == pendulum.select(range(20)).fingerprint


def test_an_environment_that_is_not_there_is_named() -> None:
    with pytest.raises(TableError, match="Did you mean Pendulum-v1"):
        read_table("env:Pendulum-v")
    with pytest.raises(TableError, match="'many' is no number of time steps"):
        read_table("env:Pendulum-v1@many")


def test_actions_without_bounds_are_refused() -> None:
    import gymnasium

    class Unbounded(gymnasium.Env[Any, Any]):
        metadata = {"render_modes": ["rgb_array"]}
        observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode = render_mode

    gymnasium.register("NearfarUnbounded-v0", Unbounded)
    with pytest.raises(ArgumentError, match="choices or bounded numbers"):
        PixelControl("NearfarUnbounded-v0")


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[control\]"):
        read_table("env:Pendulum-v1@7")


def test_nothing_is_printed_where_figures_are_expected() -> None:
    code = "from nearfar.data.environments import PixelControl; PixelControl('Pendulum-v1').reset(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
