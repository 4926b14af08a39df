"""The agent: what it remembers, what its losses train, and that it learns."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.data.environments import PixelControl
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError
from nearfar.methods.control.taco import TACO
from nearfar.training.reinforcement import Agent, AgentSettings, train_agent
from nearfar.training.replay import ReplayBuffer

SIDE = 16


class Dot(gymnasium.Env[Any, Any]):
    """A dot that moves as it is pushed, for ten steps; it earns as much as it is to the right."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(0.3, 0.7)), 0
        return np.array([self.place], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.2 * action[0], 0, 1))
        self.steps += 1
        return np.array([self.place], dtype=np.float32), self.place, False, self.steps == 10, {}

    def render(self) -> Any:
        drawn = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
        left = round(self.place * (SIDE - 4))
        drawn[6:10, left : left + 4] = 0
        return drawn


if "NearfarDot-v0" not in gymnasium.registry:
    gymnasium.register("NearfarDot-v0", Dot)

QUICK: dict[str, Any] = {
    "random_steps": 40,
    "update_every": 1,
    "batch_size": 16,
    "contrast_size": 16,
    "learning_rate": 1e-3,
    "discount": 0.8,
    "follow": 0.1,
    "dim": 8,
    "hidden": 32,
    "pad": 1,
}


def control() -> PixelControl:
    return PixelControl("NearfarDot-v0", size=SIDE, repeat=1)


def method() -> TACO:
    torch.manual_seed(0)
    return TACO(ConvNet(SIDE, 4, 3), dim=8, hidden=32, pad=1)


# -- what is remembered ----------------------------------------------------------------------------


def filled(lengths: list[int], reach: int, last_ends: bool = False) -> ReplayBuffer:
    """Episode e, step t: pixels 10 e + t, action t / 10, reward 100 e + t."""
    buffer = ReplayBuffer(1, reach)
    for e, length in enumerate(lengths):
        for t in range(length):
            seen = np.full((2, 2, 3), 10 * e + t, dtype=np.uint8)
            buffer.add(seen, np.array([t / 10]), 100.0 * e + t, last_ends and t == length - 1)
        buffer.close(np.full((2, 2, 3), 10 * e + length, dtype=np.uint8))
    return buffer


def test_samples_have_their_steps_in_their_own_episode() -> None:
    buffer = filled([5, 2, 3, 8], reach=3)
    rows = buffer.sample(2000, np.random.default_rng(0))
    assert set(rows) == {0, 1, 2, 9, 13, 14, 15, 16, 17, 18}
    assert len(buffer) == 5 + 2 + 3 + 8 + 4, "each last observation is a row"


def test_a_transition_sums_n_rewards_and_looks_n_steps_on() -> None:
    buffer = filled([5, 2, 8], reach=3)
    past = buffer.transitions(np.array([1, 9]), n=2, discount=0.5)
    assert past.seen[:, 0, 0, 0].tolist() == [1, 20]
    assert past.later[:, 0, 0, 0].tolist() == [3, 22]
    np.testing.assert_allclose(past.actions[:, 0], [0.1, 0.0])
    assert past.returns.tolist() == [1 + 0.5 * 2, 200 + 0.5 * 201]
    assert past.kept.tolist() == [0.25, 0.25]
    whole = buffer.transitions(np.array([2]), n=3, discount=0.5)
    assert whole.later[0, 0, 0, 0] == 5, "the observation after the last action"


def test_a_task_that_ended_is_worth_nothing_more_but_one_cut_off_is() -> None:
    ended = filled([5], reach=3, last_ends=True)
    assert ended.transitions(np.array([1, 2]), n=3, discount=0.5).kept.tolist() == [0.125, 0.0]
    cut = filled([5], reach=3, last_ends=False)
    assert cut.transitions(np.array([1, 2]), n=3, discount=0.5).kept.tolist() == [0.125, 0.125]


def test_rewards_are_learned_from_in_units_of_those_so_far() -> None:
    for ends in (False, True):
        buffer = filled([6], reach=3, last_ends=ends)
        earned = np.arange(6.0)
        buffer.standardise()
        mean = 0.0 if ends else earned.mean()  # an offset would make it worth more, or less, to end a task
        expected = (1 - mean + 0.5 * (2 - mean)) / earned.std()
        assert buffer.transitions(np.array([1]), n=2, discount=0.5).returns[0] == pytest.approx(expected)
        assert buffer.rows([1])["reward"] == [1.0], "a method reads them as they were"


def test_a_method_reads_it_as_a_table() -> None:
    buffer = ReplayBuffer(2, 3)
    for t in range(9):
        buffer.add(np.full((SIDE, SIDE, 3), t, dtype=np.uint8), np.array([t, -t]), float(t), False)
    buffer.close(np.full((SIDE, SIDE, 3), 9, dtype=np.uint8))
    made = method()
    made.begin(buffer)  # type: ignore[arg-type]
    assert made.starts.tolist() == list(range(7))
    cells = made.examples(buffer, np.array([6, 0]))  # type: ignore[arg-type]
    assert [image.getpixel((0, 0))[0] for image in cells["future"]] == [9, 3]
    assert cells["action"][1].tolist() == [[0, 0], [1, -1], [2, -2]]


# -- what is trained -------------------------------------------------------------------------------


def agent(**settings: Any) -> tuple[Agent, TACO]:
    made = method()
    buffer = filled([6], reach=3)
    made.begin(buffer)  # type: ignore[arg-type]
    return Agent(made.encoder, made.action_code, 1, AgentSettings(steps=100, **{**QUICK, **settings})), made


def touched(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


def seen(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, SIDE, SIDE, 3)).astype(np.uint8)


def test_the_critic_trains_encoder_and_codes_and_the_actor_itself_alone() -> None:
    made, _ = agent()
    features = made.features(seen(6))
    made.critic_loss(features, torch.rand(6, 1), torch.randn(6)).backward()
    assert touched(made.encoder)
    assert touched(made.code)
    assert touched(made.critic.trunk)
    assert not touched(made.actor)
    made.zero_grad(set_to_none=True)
    made.actor_loss(features.detach(), 0.1).backward()
    assert touched(made.actor)
    assert not touched(made.encoder)
    assert not touched(made.slow)


def test_the_critic_reads_codes_and_not_raw_actions() -> None:
    made, _ = agent()
    features = made.features(seen(3)).detach()
    assert made.critic.values[0][0].in_features == 8 + 2, "[trunk, u(a)], u of width 2 for one action"
    target, one, two = torch.zeros(3), torch.full((3, 1), -1.0), torch.full((3, 1), 1.0)
    assert made.critic_loss(features, one, target) != made.critic_loss(features, two, target)
    with torch.no_grad():
        made.code[-1].weight.zero_()  # type: ignore[index, operator, union-attr]
    assert made.critic_loss(features, one, target) == made.critic_loss(features, two, target)


def test_the_target_is_the_n_step_return_and_the_lesser_value_of_the_slow_copy() -> None:
    made, _ = agent()
    with torch.no_grad():
        for parameter in made.critic.parameters():
            parameter.add_(0.3)
    later = made.features(seen(4))
    returns, kept = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.5, 0.5, 0.0, 0.5])
    target = made.target(later, returns, kept, deviation=0.0)
    assert not target.requires_grad
    one, two = made.slow.model(later, made.code(made.actor(later).tanh()))
    torch.testing.assert_close(target, (returns + kept * torch.minimum(one, two)).detach())
    assert target[2] == 3


def test_both_critics_are_held_to_the_target() -> None:
    made, _ = agent()
    features, actions, target = made.features(seen(5)), torch.rand(5, 1), torch.randn(5)
    one, two = made.critic(features, made.code(actions))
    mse = nn.functional.mse_loss
    torch.testing.assert_close(
        made.critic_loss(features, actions, target), mse(one, target) + mse(two, target)
    )


def test_the_actor_seeks_the_lesser_value_and_is_held_back_before_its_tanh() -> None:
    made, _ = agent(restraint=0.5)
    features = made.features(seen(5)).detach()
    h = made.actor(features)
    one, two = made.critic(features, made.code(h.tanh()))
    expected = 0.5 * h.square().mean() - torch.minimum(one, two).mean()
    torch.testing.assert_close(made.actor_loss(features, 0.0), expected)


def test_noise_is_clipped_stays_in_range_and_lets_the_gradient_through() -> None:
    made, _ = agent()
    features = made.features(seen(300)).detach()
    plain, (noisy, h) = made.actor(features).tanh(), made.noisy(features, 5.0, 0.3)
    assert torch.equal(h.tanh(), plain)
    assert (noisy - plain).abs().max() <= 0.3 + 1e-6
    assert noisy.abs().max() <= 1
    wild, _ = made.noisy(features, 5.0, float("inf"))
    assert (wild.abs() == 1).any()
    last = made.actor[1][-1].weight  # type: ignore[index]
    (clamped,) = torch.autograd.grad(wild.sum(), last)
    (free,) = torch.autograd.grad(made.actor(features).tanh().sum(), last)
    torch.testing.assert_close(clamped, free)


def test_noise_shrinks_over_its_share_of_the_steps() -> None:
    settings = AgentSettings(steps=100, random_steps=10, noise=(1.0, 0.2), noise_share=0.5)
    assert [settings.noise_at(step) for step in (0, 25, 50, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


# -- the loop --------------------------------------------------------------------------------------


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(before: list[Tensor], module: nn.Module) -> bool:
    return any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("contrast", [True, False])
def test_the_methods_loss_is_learned_in_the_same_loop_where_it_is_asked_for(contrast: bool) -> None:
    made = method()
    before = weights(made.encoder), weights(made.head)
    run = train_agent(control(), made, AgentSettings(steps=50, **QUICK), contrast=contrast)
    assert run.agent.encoder is made.encoder
    assert run.agent.code is made.action_code
    assert moved(before[0], made.encoder)
    assert moved(before[1], made.head) == contrast
    assert set(run.terms) == ({"taco", "curl", "reward"} if contrast else set())
    assert [step for step, _ in run.returns] == [10, 20, 30, 40, 50]
    assert run.area == run.returns[-1][1], "random episodes are none of the agent's"
    assert moved(weights(run.agent.critic), run.agent.slow.model), "the copy lags"


def test_arms_start_alike_and_a_seed_is_the_same_run() -> None:
    runs = [train_agent(control(), method(), AgentSettings(steps=50, seed=3, **QUICK)) for _ in range(2)]
    assert runs[0].returns == runs[1].returns
    assert runs[0].terms == runs[1].terms
    other = train_agent(control(), method(), AgentSettings(steps=50, seed=4, **QUICK))
    assert other.returns != runs[0].returns


def test_it_learns_to_push_the_dot_to_the_right() -> None:
    """Ten steps at the right edge earn near 10; at random a dot stays near the middle, which earns 5."""
    run = train_agent(control(), method(), AgentSettings(steps=200, **QUICK))
    assert np.mean([value for step, value in run.returns if step <= 40]) < 6
    assert np.mean([value for _, value in run.returns[-4:]]) > 8
    assert run.agent.act(control().reset(seed=1))[0] > 0.5


def test_what_the_agent_cannot_do_is_named() -> None:
    with pytest.raises(ArgumentError, match="takes choices"):
        train_agent(PixelControl("Acrobot-v1", size=SIDE), method(), AgentSettings(steps=10, random_steps=5))
    with pytest.raises(ArgumentError, match=r"takes pictures of 16 x 16 pixels.*at 24: .*size=16"):
        train_agent(PixelControl("NearfarDot-v0", size=24), method(), AgentSettings(steps=10, random_steps=5))
    with pytest.raises(ArgumentError, match="no episode of NearfarDot-v0 ended within random_steps 5"):
        train_agent(control(), method(), AgentSettings(steps=10, **{**QUICK, "random_steps": 5}))
    with pytest.raises(ArgumentError, match="random_steps must be between 1 and 9"):
        AgentSettings(steps=10, random_steps=10)
