"""An agent that learns from pictures while it acts, and a method's loss that it learns with.

    control = PixelControl("Pendulum-v1")
    method = TACO(ConvNet(size=48, width=8), hidden=256, pad=2)
    run = train_agent(control, method, AgentSettings(steps=5000))

The agent is DrQ-v2 (Yarats, Fergus, Lazaric, Pinto. "Mastering Visual Continuous Control: Improved Data-Augmented
Reinforcement Learning." ICLR 2022): n-step targets, two critics, random shifts, a deterministic actor with noise
that shrinks. It is used from Python only: acting is no table, and no `fit`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.data.environments import PixelControl
from nearfar.data.table import Table
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.image import PictureEncoder
from nearfar.errors import ArgumentError, check_between
from nearfar.heads.mlp import mlp
from nearfar.heads.projection import Projection
from nearfar.method import Method
from nearfar.progress import progress
from nearfar.training.replay import ReplayBuffer
from nearfar.training.teacher import EMATeacher
from nearfar.views.image import random_shift


@dataclass(frozen=True)
class AgentSettings:
    """How an agent acts and learns; the defaults are those of TACO's and DrQ-v2's medium tasks.

    Attributes:
        steps: actions in all.
        random_steps: actions at random before anything is learned, at least an episode.
        update_every: actions between two updates.
        batch_size: transitions of an update.
        contrast_size: rows of the method's loss.
        learning_rate: of Adam, for all parts.
        returns: n, steps whose rewards are summed before the critic is asked.
        discount: of rewards, for each step.
        dim: width of what actor and critic make of the features.
        hidden: units of their hidden layers.
        pad: most pixels of a random shift.
        follow: share of the critic that its slow copy takes over at an update.
        noise: standard deviation of the noise on actions at first and at last.
        noise_share: share of the steps over which it shrinks.
        noise_clip: most noise on actions that are learned from.
        restraint: weight of the actor's squared inputs to tanh; 0 in the papers.
        seed: of everything.
    """

    steps: int
    random_steps: int = 2000
    update_every: int = 2
    batch_size: int = 256
    contrast_size: int = 1024
    learning_rate: float = 1e-4
    returns: int = 3
    discount: float = 0.99
    dim: int = 50
    hidden: int = 1024
    pad: int = 4
    follow: float = 0.01
    noise: tuple[float, float] = (1.0, 0.1)
    noise_share: float = 0.5
    noise_clip: float = 0.3
    restraint: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_between(1, self.steps - 1, random_steps=self.random_steps)
        check_between(2, float("inf"), batch_size=self.batch_size, contrast_size=self.contrast_size)

    def noise_at(self, step: int) -> float:
        """Standard deviation of the noise at a step."""
        past = min(1.0, step / (self.noise_share * self.steps))
        return (1 - past) * self.noise[0] + past * self.noise[1]


@dataclass(frozen=True)
class AgentRun:
    """How it went.

    Attributes:
        agent: what acts.
        returns: of each finished episode, the number of actions so far and the sum of its rewards.
        learned_from: actions that were random, before the first update.
        terms: the method's loss terms at the last update.
        seconds: wall clock.
    """

    agent: Agent
    returns: list[tuple[int, float]]
    learned_from: int
    terms: dict[str, float]
    seconds: float

    @property
    def area(self) -> float:
        """Mean return of the episodes that ended after learning began: the area under the curve, over its width."""
        return float(np.mean([value for step, value in self.returns if step > self.learned_from]))


class Critic(nn.Module):
    """Two values of a state and an action: MLPs of [trunk(features), code(action)]."""

    def __init__(self, features: int, code: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.trunk = Projection(features, dim, kind="norm_tanh")
        self.values = nn.ModuleList(mlp([dim + code, hidden, hidden, 1]) for _ in range(2))

    def forward(self, features: Tensor, codes: Tensor) -> Tensor:
        """[2, B]."""
        joined = torch.cat([self.trunk(features), codes], dim=1)
        return torch.stack([value(joined).squeeze(1) for value in self.values])


class Agent(nn.Module):
    """Actor, critic and its slow copy, on an encoder and codes of actions that are shared with a method.

        y      = R + discount^n min_k Q'_k(e(o_{t+n}), u(pi(e(o_{t+n})) + noise))       noise clipped
        critic = sum_k mean (Q_k(e(o_t), u(a_t)) - y)^2             trains Q, e and u
        actor  = - mean min_k Q_k(stop e(o_t), u(pi(stop e(o_t)) + noise)) + restraint mean h^2    trains pi alone

    with pi = tanh(h). The last term is ours: without it short runs at high rates end in actions of one sign, where
    tanh has no slope left to leave them by.

    Args:
        encoder: e, of pictures.
        code: u, of actions [B, |a|].
        width: |a|.
        settings: widths and noise.
    """

    def __init__(self, encoder: Encoder, code: nn.Module, width: int, settings: AgentSettings) -> None:
        super().__init__()
        self.encoder, self.code, self.settings = encoder, code, settings
        with torch.no_grad():
            code_width = code(torch.zeros(1, width)).shape[1]
        dim, hidden = settings.dim, settings.hidden
        self.critic = Critic(encoder.dim, code_width, dim, hidden)
        self.actor = nn.Sequential(
            Projection(encoder.dim, dim, kind="norm_tanh"), mlp([dim, hidden, hidden, width])
        )
        self.slow = EMATeacher(self.critic, 1 - settings.follow)

    def features(self, seen: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """e of pictures uint8 [B, H, W, 3], shifted at random where a generator is given: [B, D]."""
        pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255
        if generator is not None:
            pixels = random_shift(pixels, generator, self.settings.pad)
        return self.encoder({"pixels": pixels}).pooled

    def noisy(self, features: Tensor, deviation: float, clip: float) -> tuple[Tensor, Tensor]:
        """Actions [B, |a|] with noise of a standard deviation, clipped, within [-1, 1]; and h of the same shape.

        The clamp lets the gradient through, as the paper's truncated normal does.
        """
        h: Tensor = self.actor(features)
        chosen = h.tanh()
        noise = (torch.randn_like(chosen) * deviation).clamp(-clip, clip)
        return chosen + ((chosen + noise).clamp(-1, 1) - chosen).detach(), h

    @torch.no_grad()
    def act(self, seen: np.ndarray, deviation: float = 0.0) -> np.ndarray:
        """The action for one observation uint8 [H, W, 3]: float32 [|a|]."""
        return self.noisy(self.features(seen[None]), deviation, float("inf"))[0][0].numpy()

    def target(self, later: Tensor, returns: Tensor, kept: Tensor, deviation: float) -> Tensor:
        """y, without gradient: [B]."""
        with torch.no_grad():
            actions, _ = self.noisy(later, deviation, self.settings.noise_clip)
            return returns + kept * self.slow.model(later, self.code(actions)).amin(dim=0)

    def critic_loss(self, features: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        """Of both critics."""
        return (self.critic(features, self.code(actions)) - target).square().mean(dim=1).sum()

    def actor_loss(self, features: Tensor, deviation: float) -> Tensor:
        """Features without gradient: the actor does not train the encoder."""
        actions, h = self.noisy(features, deviation, self.settings.noise_clip)
        worth = self.critic(features, self.code(actions)).amin(dim=0).mean()
        return self.settings.restraint * h.square().mean() - worth


def train_agent(
    control: PixelControl, method: Method, settings: AgentSettings, *, contrast: bool = True
) -> AgentRun:
    """Act in an environment, and learn from it: the agent's losses, then the method's, at every update.

    The agent shares the method's picture encoder, and its `action_code` where it has one (else the critic gets raw
    actions). Rewards are in units of those of the random phase (ours: tasks of the paper pay from 0 to 1; see
    `ReplayBuffer.standardise`).

    Args:
        control: the environment; its actions must be bounded numbers.
        method: reads image, action, reward and episode, such as TACO.
        settings: how.
        contrast: False learns without the method's loss, the rest being equal: the baseline.

    Raises:
        ArgumentError: the environment's actions are choices, the random phase holds no episode, or the method reads
            no pictures or those of another size.
    """
    if control.choices:
        raise ArgumentError(f"{control.name} takes choices: the agent acts with bounded numbers only")
    encoder = next(iter(method.encoders()), None)
    if not isinstance(encoder, PictureEncoder):
        raise ArgumentError(f"the agent sees pictures, but {type(method).__name__} has no encoder of them")
    if (encoder.plan.height, encoder.plan.width) != (control.size, control.size):
        raise ArgumentError(
            f"the encoder takes pictures of {encoder.plan.height} x {encoder.plan.width} pixels, the environment is "
            f"seen at {control.size}: make it with PixelControl({control.name!r}, size={encoder.plan.width})"
        )
    return _Learner(control, method, settings, contrast).run()


class _Learner:
    def __init__(
        self, control: PixelControl, method: Method, settings: AgentSettings, contrast: bool
    ) -> None:
        self.control, self.method, self.settings, self.contrast = control, method, settings, contrast
        # One row more than the method looks at: the last of an episode has no action and no reward.
        reach = max(settings.returns, getattr(method, "reach", 0) + 1)
        self.buffer = ReplayBuffer(control.width, reach, control.name)
        self.draw = np.random.default_rng(settings.seed)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def run(self) -> AgentRun:
        settings, control, started = self.settings, self.control, time.monotonic()
        torch.manual_seed(settings.seed)
        agent: Agent | None = None
        returns: list[tuple[int, float]] = []
        terms: dict[str, float] = {}
        earned, seen = 0.0, control.reset(seed=settings.seed)
        with progress(f"acting in {control.name}", settings.steps) as shown:
            for step in range(settings.steps):
                if step == settings.random_steps:
                    agent = self._make()
                noise = settings.noise_at(step)
                action = control.random_action(self.draw) if agent is None else agent.act(seen, noise)
                later, reward, ended, cut = control.step(action)
                self.buffer.add(seen, action, reward, ended)
                earned += reward
                if ended or cut:
                    self.buffer.close(later)
                    returns.append((step + 1, earned))
                    earned, later = 0.0, control.reset()
                seen = later
                if agent is not None and step % settings.update_every == 0:
                    terms = self._update(agent, noise)
                shown.advance()
        assert agent is not None
        return AgentRun(agent, returns, settings.random_steps, terms, time.monotonic() - started)

    def _make(self) -> Agent:
        """The agent and the optimisers, once it is known what actions and rewards look like."""
        if not self.buffer.column("episode")[-1]:
            raise ArgumentError(
                f"no episode of {self.control.name} ended within random_steps {self.settings.random_steps}: give more"
            )
        method: Any = self.method
        method.begin(self.buffer)
        encoder, *_ = method.encoders()
        code = getattr(method, "action_code", None) or nn.Identity()
        agent = Agent(encoder, code, self.control.width, self.settings)
        self.buffer.standardise()
        rate = self.settings.learning_rate
        shared = [*agent.encoder.parameters(), *agent.code.parameters(), *agent.critic.parameters()]
        self.critic_optimiser = torch.optim.Adam(shared, rate)
        self.actor_optimiser = torch.optim.Adam(agent.actor.parameters(), rate)
        self.method_optimiser = torch.optim.Adam(self.method.parameters(), rate)
        return agent

    def _update(self, agent: Agent, noise: float) -> dict[str, float]:
        settings, generator = self.settings, self.generator
        rows = self.buffer.sample(settings.batch_size, self.draw)
        past = self.buffer.transitions(rows, settings.returns, settings.discount)
        features = agent.features(past.seen, generator)
        with torch.no_grad():
            later = agent.features(past.later, generator)
        returns, kept = torch.from_numpy(past.returns), torch.from_numpy(past.kept)
        target = agent.target(later, returns, kept, noise)
        loss = agent.critic_loss(features, torch.from_numpy(past.actions), target)
        _step(self.critic_optimiser, loss)
        _step(self.actor_optimiser, agent.actor_loss(features.detach(), noise))
        agent.slow.update(agent.critic)
        if not self.contrast:
            return {}
        rows = self.buffer.sample(settings.contrast_size, self.draw)
        cells = self.method.examples(cast(Table, self.buffer), rows)  # it reads `rows` of it, nothing else
        terms = self.method.loss(self.method.prepare(cells, generator))
        _step(self.method_optimiser, self.method.total(terms))
        return {name: float(term.detach()) for name, term in terms.items()}


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step on one loss; what other losses left in the gradients is forgotten."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
