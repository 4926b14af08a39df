"""Environments seen through pictures, and tables made by acting in them."""

from __future__ import annotations

import difflib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version as installed
from typing import Any

import numpy as np

from nearfar.data.source import Content, Source, key_of, stored
from nearfar.errors import ArgumentError, TableError, need

STEPS = 5000
"""Time steps of a table for which no number is given."""
SIZE = 48
REPEAT = 2
FRAMES = 3
RENDERED = 96
"""Side, in pixels, of what is drawn before it is made smaller, where the environment lets that be said."""
EPISODE = 200
"""Most time steps of an episode in a table."""
HELD_OUT = 5
"""Every fifth episode of a table is its test side."""
HOLD = 8
"""A random action is kept for 1 to this many steps, so that random acting gets somewhere."""
NOISE = 0.3
"""Share of the steps of a scripted episode that are random."""
VERSION = 1
"""Raise it when a table of the same name changes."""


def _swing_up(state: np.ndarray) -> np.ndarray:
    """Pendulum-v1: give it the energy to stand, then hold it there. State (cos, sin, velocity)."""
    cosine, sine, velocity = state
    lacking = 15 - (velocity**2 / 2 + 15 * cosine)
    torque = -10 * math.atan2(sine, cosine) - 2 * velocity if cosine > 0.9 else velocity * lacking / 2
    return np.array([np.clip(torque / 2, -1, 1)], dtype=np.float32)


def _pump(state: np.ndarray) -> np.ndarray:
    """Acrobot-v1: push the joint the way it turns, which always adds energy."""
    return np.eye(3, dtype=np.float32)[2 if state[5] > 0 else 0]


SCRIPTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"Pendulum-v1": _swing_up, "Acrobot-v1": _pump}
"""Environment -> state to action, for half of its episodes; others are acted in at random only."""


class PixelControl:
    """An environment of gymnasium with pictures for observations and vectors for actions.

    An observation is an RGB array whose channels are the last three frames in grey, oldest first, so that it shows
    motion. An action is a vector in [-1, 1] where the environment's are numbers within bounds, or one entry for
    each choice (the largest is taken). It is repeated, and the rewards are added. What is drawn of an action
    (Pendulum's arrow) is left out: it would tell it.

    Args:
        name: of the environment.
        size: side of the pictures, in pixels.
        repeat: steps of the environment for one action.

    Raises:
        TableError: there is no such environment, or it is not drawn.
        ArgumentError: its actions are neither choices nor numbers within bounds.
        MissingExtra: gymnasium is not installed.
    """

    def __init__(self, name: str, size: int = SIZE, repeat: int = REPEAT) -> None:
        # Pictures are drawn in memory: no greeting on standard output, no search for a screen.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        gymnasium = need("gymnasium", "control")
        try:
            self.environment = gymnasium.make(name, render_mode="rgb_array")
        except (gymnasium.error.Error, ImportError) as refused:
            near = difflib.get_close_matches(name, list(gymnasium.registry), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise TableError(
                f"no environment {name!r} with pictures can be made: {str(refused).rstrip('.')}.{hint}"
            ) from None
        if self.environment.render_mode != "rgb_array":
            raise TableError(f"the environment {name!r} draws no pictures: choose one that renders")
        self.name, self.size, self.repeat = name, size, repeat
        inner: Any = self.environment.unwrapped
        for side in ("screen_dim", "SCREEN_DIM"):
            if hasattr(inner, side):
                setattr(inner, side, RENDERED)
        space = self.environment.action_space
        self.choices = isinstance(space, gymnasium.spaces.Discrete)
        if not self.choices and not (hasattr(space, "low") and np.isfinite([space.low, space.high]).all()):
            raise ArgumentError(
                f"the environment {name!r} takes actions {space}: choices or bounded numbers are needed"
            )
        self.width = int(space.n) if self.choices else int(np.prod(space.shape))
        self.told = partial(gymnasium.spaces.flatten, self.environment.observation_space)
        self.frames: deque[np.ndarray] = deque(maxlen=FRAMES)
        self.state = np.empty(0, dtype=np.float32)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin an episode: uint8 [size, size, 3]."""
        state, _ = self.environment.reset(seed=seed)
        self.state = np.asarray(self.told(state), dtype=np.float32)
        self.frames.extend([self._frame()] * FRAMES)
        return np.stack(self.frames, axis=-1)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Act: (observation, reward, whether the task ended, whether the episode was cut off)."""
        earned, ended, cut = 0.0, False, False
        for _ in range(self.repeat):
            state, reward, ended, cut, _ = self.environment.step(self._native(action))
            earned += float(reward)
            if ended or cut:
                break
        self.state = np.asarray(self.told(state), dtype=np.float32)
        self.frames.append(self._frame())
        return np.stack(self.frames, axis=-1), earned, bool(ended), bool(cut)

    def _native(self, action: np.ndarray) -> Any:
        space: Any = self.environment.action_space
        if self.choices:
            return int(space.start + np.argmax(action))
        share = (np.clip(np.asarray(action, dtype=np.float64), -1, 1).reshape(space.shape) + 1) / 2
        return (space.low + share * (space.high - space.low)).astype(space.dtype)

    def _frame(self) -> np.ndarray:
        from PIL import Image

        inner: Any = self.environment.unwrapped
        if hasattr(inner, "last_u"):
            inner.last_u = None
        drawn = Image.fromarray(self.environment.render()).convert("L")
        return np.asarray(drawn.resize((self.size, self.size), Image.Resampling.BOX))

    def random_action(self, draw: np.random.Generator) -> np.ndarray:
        """An action of those that are possible, all as likely."""
        if self.choices:
            return np.eye(self.width, dtype=np.float32)[draw.integers(self.width)]
        return draw.uniform(-1, 1, self.width).astype(np.float32)


def open_environment(name: str) -> Source:
    """The table `env:NAME` or `env:NAME@STEPS`: time steps in order, by random and scripted acting.

    Columns: image, action, reward, episode, state (what the environment says of itself: no method should read
    it, a probe may) and split (every fifth episode is in test). The same name gives the same table.

    Raises:
        TableError: no such environment, or no number of steps.
        MissingExtra: gymnasium is not installed.
    """
    place, _, said = name.partition("@")
    if said and not (said.isdigit() and int(said) >= 1):
        raise TableError(f"env:{name}: {said!r} is no number of time steps; write env:{place}@{STEPS}")
    steps = int(said) if said else STEPS
    need("gymnasium", "control")

    def content() -> Content:
        from nearfar.data.arrow import batches, categories, schema_of
        from nearfar.data.faults import Faults

        control = PixelControl(place)
        made = list(_acted(control, steps))
        found, _ = categories(made)
        faults = Faults()
        rows = enumerate((list(row.values()) for row in made), start=1)
        return Content(schema_of(found), batches(rows, found, faults), faults)

    key = key_of("env", place, steps, VERSION, installed("gymnasium"))
    return stored(key, content, f"env:{name}")


def _acted(control: PixelControl, steps: int) -> Iterator[dict[str, Any]]:
    from PIL import Image

    from nearfar.progress import track

    draw = np.random.default_rng(0)
    script = SCRIPTS.get(control.name)
    episode, begun, seen, action, held = -1, EPISODE, np.empty(0), np.empty(0), 0
    for _ in track(range(steps), f"acting in {control.name}"):
        if begun >= EPISODE:
            episode, begun, held = episode + 1, 0, 0
            seen = control.reset(seed=episode)
        if script is not None and episode % 2 and draw.random() >= NOISE:
            action, held = script(control.state), 0
        elif held <= 0:
            action, held = control.random_action(draw), int(draw.integers(1, HOLD + 1))
        row = {
            "image": Image.fromarray(seen),
            "action": action,
            "state": control.state,
            "episode": episode,
            "split": "test" if episode % HELD_OUT == HELD_OUT - 1 else "train",
        }
        seen, row["reward"], ended, cut = control.step(action)
        begun, held = (EPISODE if ended or cut else begun + 1), held - 1
        yield row
