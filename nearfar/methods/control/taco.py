"""TACO: a state and the actions that follow are near the state that they lead to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.batching.windows import discounted, order_of_some, spread, windows
from nearfar.data.kinds import Id, Image, Number, Vector
from nearfar.encoders.encoder import Encoder
from nearfar.encoders.image import ConvNet
from nearfar.errors import ArgumentError, TableError, check_between
from nearfar.heads.dynamics import ActionDynamics
from nearfar.heads.projection import Projection
from nearfar.method import Batch, Method
from nearfar.objectives import info_nce
from nearfar.space import Space
from nearfar.views.image import random_shift

if TYPE_CHECKING:
    from nearfar.data.table import Table


class TACO(Method):
    """A state and the K actions that follow are near the state after them; futures of other rows are far.

    A row is a time step of an episode, in order: what was seen (o, a picture, of several frames where one shows
    no motion), the action then taken (a, a vector), the reward it brought (r), the episode. With z = phi(o):

        phi(o) = tanh(LayerNorm(W e(o) + b))                                   [B, d], e the encoder's features
        U, q   = codes of a_t .. a_{t+K-1}, and MLP([z_t, U])                  see `ActionDynamics`
        taco   = CE(q_i^T W y_j, i)       y = stop phi(shift'(o_{t+K}))        z_t = phi(shift(o_t))
        curl   = CE(z_i^T W y_j, i)       y = stop phi(shift''(o_t))           the same W
        reward = mean (MLP([z_t, U]) - R)^2    R = sum_{i<n} discount^i r_{t+i}, standardised over the table

    and the sum of the three is minimised. The shifts are drawn independently. Targets carry no gradient but are
    the network's own: there is no momentum encoder. No window leaves its episode, nor a gap in the table.

    The space embeds pictures by phi, and its part "dynamics" maps (z, actions [B, K, |a|]) to queries whose inner
    products with embeddings say which state follows. `env:Pendulum-v1` is a table made by acting in that
    environment of gymnasium. As the auxiliary loss of an agent that learns while it acts, in Python:
    `nearfar.training.reinforcement.train_agent`.

    A `ConvNet` hands over its whole grid, not its mean. The paper trains with Adam, without decay, at 1e-4 and
    batches of 1,024: settings of the run. From memory: how W starts. Ours: R is standardised, since rewards of any
    size would drown the contrasts (the paper's tasks pay from 0 to 1). Not offered: the offline variants.

    Args:
        horizon: K, steps from a state to its future.
        returns: n, steps whose rewards are summed.
        discount: of rewards, for each step.
        dim: d, width of the space.
        hidden: units of both MLPs.
        pad: most pixels of a shift; the paper's are for 84 x 84 pictures.

    Zheng et al. "TACO: Temporal Latent Action-Driven Contrastive Loss for Visual Reinforcement Learning." NeurIPS
    2023.
    """

    reads = {"image": Image, "action": Vector, "reward": Number, "episode": Id}
    together = "episode"

    def __init__(
        self,
        encoder: Encoder,
        horizon: int = 3,
        returns: int = 3,
        discount: float = 0.99,
        dim: int = 50,
        hidden: int = 1024,
        pad: int = 4,
    ) -> None:
        super().__init__()
        check_between(1, math.inf, horizon=horizon, returns=returns, dim=dim, hidden=hidden)
        check_between(0, 1, discount=discount)
        check_between(0, math.inf, pad=pad)
        if isinstance(encoder, ConvNet):
            encoder.keep_grid()
        self.encoder = encoder
        self.head = Projection(encoder.dim, dim, kind="norm_tanh")
        self.horizon, self.returns, self.discount = horizon, returns, discount
        self.dim, self.hidden, self.pad = dim, hidden, pad
        self.dynamics: ActionDynamics | None = None
        self.reward: Projection | None = None
        self.mean_return, self.spread_of_returns = 0.0, 1.0
        self.starts = np.empty(0, dtype=np.int64)

    # -- which rows --------------------------------------------------------------------------------

    @property
    def reach(self) -> int:
        """Rows that must follow one, in its episode: o_{t+K} and r_{t+n-1} are the furthest."""
        return max(self.horizon, self.returns - 1)

    def begin(self, table: Table) -> None:
        """Find the rows that have a future, how wide actions are, and the size of returns."""
        numbers = np.array(table.row_numbers(np.arange(len(table))))
        found = windows(np.array(table.column("episode")), 0, self.reach, numbers)
        if not len(found):
            raise TableError(
                f"{table.name}, column {table.role_columns['episode']!r}: no row has {self.reach} more of its "
                "episode right after it. Rows must be time steps in order, episode after episode; or give a smaller "
                "horizon and returns"
            )
        self.starts = found[:, 0]
        returns = self._returns(np.array(table.column("reward"))[found])
        self.mean_return, self.spread_of_returns = float(returns.mean()), spread(returns)
        width = len(table.rows([0])["action"][0])
        self.dynamics = ActionDynamics(self.dim, width, horizon=self.horizon, hidden=self.hidden)
        self.reward = Projection(self.dynamics.next.dims[0], self.hidden, 1, kind="mlp")

    def _returns(self, rewards: np.ndarray) -> np.ndarray:
        """R as summed, [W], of the rewards of windows [W, reach + 1]."""
        return discounted(rewards[:, : self.returns], self.discount)

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return order_of_some(self.starts, rows, batch_size, seed, epoch)

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """Pictures now and K steps on, the actions between ([K, |a|] each), and R."""
        reach = rows[:, None] + np.arange(self.reach + 1)
        cells = table.rows(np.unique(reach))
        at = np.searchsorted(np.unique(reach), reach)
        actions, returns = np.stack(cells["action"]), self._returns(np.array(cells["reward"])[at])
        return {
            "image": [cells["image"][i] for i in at[:, 0]],
            "future": [cells["image"][i] for i in at[:, self.horizon]],
            "action": list(actions[at[:, : self.horizon]]),
            "reward": ((returns - self.mean_return) / self.spread_of_returns).tolist(),
        }

    # -- learning ----------------------------------------------------------------------------------

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        now, future = (self.encoder.prepare(rows[role])["pixels"] for role in ("image", "future"))
        views = {"now": now, "again": now, "future": future}
        return {
            **{name: {"pixels": random_shift(pixels, generator, self.pad)} for name, pixels in views.items()},
            "action": torch.from_numpy(np.stack(rows["action"])),
            "reward": torch.tensor(rows["reward"], dtype=torch.float32),
        }

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            targets = {name: self._phi(batch[name]) for name in ("again", "future")}
        return {"now": self._phi(batch["now"]), **targets, "codes": self._dynamics().code(batch["action"])}

    def _phi(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.encoder(inputs).pooled)

    def _dynamics(self) -> ActionDynamics:
        if self.dynamics is None:
            raise ArgumentError("TACO does not know how wide actions are: call begin(table) first")
        return self.dynamics

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        dynamics = self._dynamics()
        assert self.reward is not None
        joined = dynamics.joined(z["now"], z["codes"])
        expected = self.reward(joined).squeeze(1)
        return {
            "taco": self._nce(dynamics.next(joined), z["future"]),
            "curl": self._nce(z["now"], z["again"]),
            "reward": nn.functional.mse_loss(expected, batch["reward"]),
        }

    def _nce(self, queries: Tensor, keys: Tensor) -> Tensor:
        return info_nce(self._dynamics().score(queries), keys, score="dot", temperature=1.0)

    def negatives(self, batch_size: int) -> int:
        return 0  # two contrasts and a regression: their sum has no such baseline

    @property
    def action_code(self) -> nn.Module:
        """u, which an agent's critic reads actions through and trains as well."""
        return self._dynamics().code

    def notes(self) -> list[str]:
        return [
            f"{len(self.starts):,} rows have {self.reach} more of their episode after them; futures are theirs"
        ]

    def space(self) -> Space:
        parts = {} if self.dynamics is None else {"dynamics": self.dynamics}
        return Space({"image": self.encoder}, {"image": self.head}, parts=parts)
