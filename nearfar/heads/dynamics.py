"""What an action does to a state: codes of actions, and the state that follows them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import check_between
from nearfar.heads.bilinear import Bilinear
from nearfar.heads.projection import Projection

CODE_HIDDEN = 64


class ActionDynamics(nn.Module):
    """From a state and the actions that follow to the state K steps on.

        u_t = W2 tanh(W1 a_t + b1) + b2                      in R^m, m = floor(1.25 |a|) + 1
        U   = tanh(LayerNorm(W3 [u_t .. u_{t+K-1}] + b3))    in R^(K m)
        q   = MLP([z_t, U]) W                                in R^d; q . z is the score of a state z

    Zheng et al. "TACO: Temporal Latent Action-Driven Contrastive Loss for Visual Reinforcement Learning."
    NeurIPS 2023.

    Args:
        dims: d, width of states, and |a|, width of actions.
        horizon: K.
        hidden: units of the MLP.

    Raises:
        ArgumentError: a width or K is below 1.
    """

    def __init__(self, *dims: int, horizon: int, hidden: int) -> None:
        super().__init__()
        state, action = dims
        check_between(1, float("inf"), state=state, action=action, horizon=horizon, hidden=hidden)
        self.dims, self.horizon, self.hidden = dims, horizon, hidden
        code = action + action // 4 + 1
        self.code = nn.Sequential(nn.Linear(action, CODE_HIDDEN), nn.Tanh(), nn.Linear(CODE_HIDDEN, code))
        self.sequence = Projection(horizon * code, horizon * code, kind="norm_tanh")
        self.next = Projection(state + horizon * code, hidden, state, kind="mlp")
        self.score = Bilinear(state, state)

    @property
    def code_width(self) -> int:
        """m."""
        return self.sequence.dims[0] // self.horizon

    def joined(self, states: Tensor, codes: Tensor) -> Tensor:
        """[z, U] of states [B, d] and codes of actions u [B, K, m]: [B, d + K m]."""
        return torch.cat([states, self.sequence(codes.flatten(1))], dim=1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Queries q [B, d] for states z [B, d] and actions [B, K, |a|]."""
        return self.score(self.next(self.joined(states, self.code(actions))))

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {
            "class": "ActionDynamics",
            "dims": list(self.dims),
            "horizon": self.horizon,
            "hidden": self.hidden,
        }
