"""What an agent has lived through, as a table that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nearfar.batching.windows import discounted, spread


class Transitions(NamedTuple):
    """What n-step learning needs of B time steps.

    Attributes:
        seen: observations o_t, uint8 [B, H, W, 3].
        actions: a_t, float32 [B, |a|].
        returns: R = sum_{i<n} discount^i (r_{t+i} - offset) / scale, float32 [B].
        kept: discount^n, or 0 where the task ended within the n steps: float32 [B].
        later: o_{t+n}, uint8 [B, H, W, 3].
    """

    seen: np.ndarray
    actions: np.ndarray
    returns: np.ndarray
    kept: np.ndarray
    later: np.ndarray


class ReplayBuffer:
    """All time steps of a run, in order. The last observation of an episode is a row without an action.

    It answers what methods ask of a table in `begin` and `examples`: `rows`, `column`, `row_numbers`, its length.

    Args:
        width: of actions.
        reach: rows of its episode that must follow one that is sampled.
        name: what messages call it.

    Attributes:
        offset: taken off every reward in `transitions`.
        scale: what they are divided by then.
    """

    def __init__(self, width: int, reach: int, name: str = "replay") -> None:
        self.name, self.width, self.reach = name, width, reach
        self.role_columns = {role: role for role in ("image", "action", "reward", "episode")}
        self._seen: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._ended: list[bool] = []
        self._episodes: list[int] = []
        self._starts: list[int] = []
        self._without_action: set[int] = set()
        self._episode, self._length = 0, 0
        self.offset, self.scale = 0.0, 1.0

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, seen: np.ndarray, action: np.ndarray, reward: float, ended: bool) -> None:
        """Remember a time step: what was seen, what was done, what it brought, whether the task ended by it."""
        self._seen.append(seen)
        self._actions.append(np.asarray(action, dtype=np.float32))
        self._rewards.append(reward)
        self._ended.append(ended)
        self._episodes.append(self._episode)
        self._length += 1
        if self._length > self.reach:
            self._starts.append(len(self) - 1 - self.reach)

    def close(self, seen: np.ndarray) -> None:
        """Remember the last observation of an episode; the next row begins another."""
        self._without_action.add(len(self))
        self.add(seen, np.zeros(self.width), 0.0, False)
        self._episode, self._length = self._episode + 1, 0

    def sample(self, size: int, draw: np.random.Generator) -> np.ndarray:
        """Rows that `reach` rows of their episode follow, with replacement: int64 [size]."""
        return np.array(self._starts)[draw.integers(len(self._starts), size=size)]

    def transitions(self, rows: np.ndarray, n: int, discount: float) -> Transitions:
        """The n-step transitions from sampled rows, n at most `reach`."""
        steps = rows[:, None] + np.arange(n)
        ended = np.array([self._ended[row] for row in steps[:, -1]])
        rewards = np.array([[self._rewards[row] for row in window] for window in steps])
        return Transitions(
            np.stack([self._seen[row] for row in rows]),
            np.stack([self._actions[row] for row in rows]),
            discounted((rewards - self.offset) / self.scale, discount).astype(np.float32),
            (discount**n * ~ended).astype(np.float32),
            np.stack([self._seen[row] for row in rows + n]),
        )

    def standardise(self) -> None:
        """Let `transitions` give rewards in units of what has been earned so far.

        They are divided by their standard deviation. Where no task has ended by itself their mean is taken off
        as well, which changes no order of policies; where one can end, it would.
        """
        earned = np.array([r for row, r in enumerate(self._rewards) if row not in self._without_action])
        self.scale = spread(earned)
        self.offset = 0.0 if any(self._ended) else float(earned.mean())

    # -- as a table --------------------------------------------------------------------------------

    def rows(self, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """The cells of some rows, as `Table.rows`."""
        from PIL import Image

        return {
            "image": [Image.fromarray(self._seen[i]) for i in indices],
            "action": [self._actions[i] for i in indices],
            "reward": [self._rewards[i] for i in indices],
            "episode": [self._episodes[i] for i in indices],
        }

    def column(self, role: str) -> list[Any]:
        """All rewards or episodes."""
        columns: dict[str, list[Any]] = {"reward": self._rewards, "episode": self._episodes}
        return columns[role]

    def row_numbers(self, indices: np.ndarray) -> list[int]:
        """Rows as users count them."""
        return [int(index) + 1 for index in indices]
