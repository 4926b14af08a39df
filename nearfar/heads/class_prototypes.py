"""One learnt direction for each class, for classes that come one after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import ArgumentError
from nearfar.geometry import cosine


class ClassPrototypes(nn.Module):
    """A vector w_c for every class met so far; what is nearest to w_c in cosine is of class c.

        scores(x)_ic = cos(x_i, w_c)

    Its state holds the names of the classes beside their vectors, and takes over both when it is loaded: a
    checkpoint of later tasks loads into prototypes that know no class yet.

    Args:
        dim: d, width of the features.
        groups: names of the classes, those that came together in one list.

    Raises:
        ArgumentError: a name comes twice.
    """

    def __init__(self, dim: int, groups: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        self.dim = dim
        self.groups: list[list[str]] = []
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.weight.no_weight_decay = True  # type: ignore[attr-defined]  # only its direction counts
        for group in groups:
            if set(group) & set(self.names) or len(set(group)) < len(group):
                raise ArgumentError(f"groups of prototypes must not name a class twice: {groups}")
            self.add(group)

    @property
    def names(self) -> list[str]:
        """The classes, in the order of the rows of `weight`."""
        return [name for group in self.groups for name in group]

    def add(self, names: Sequence[str]) -> None:
        """Add the classes that are new as one group, at random directions; a known class keeps its prototype."""
        new = [name for name in dict.fromkeys(names) if name not in self.names]
        if not new:
            return
        rows = self.weight.new_empty(len(new), self.dim).uniform_(-1, 1) / math.sqrt(self.dim)
        self.weight.data = torch.cat([self.weight.data, rows])
        self.groups.append(new)

    def forward(self, x: Tensor) -> Tensor:
        """Cosines of features and prototypes: [N, d] -> [N, C]."""
        return cosine(x, self.weight)

    @torch.no_grad()
    def classify(self, x: Tensor, among: Sequence[str] | None = None) -> list[str]:
        """The class whose prototype is nearest to each row of x [N, d].

        Args:
            x: features, of any length.
            among: the classes to choose from; None: all.

        Raises:
            ArgumentError: there is no class to choose from, or one of `among` has no prototype.
        """
        names = self.names
        chosen = names if among is None else list(among)
        if not chosen or (unknown := sorted(set(chosen) - set(names))):
            raise ArgumentError(
                f"no prototype of {', '.join(unknown) if chosen else 'any class'}: the classes are {', '.join(names)}"
            )
        scores = self(x.to(self.weight))[:, [names.index(name) for name in chosen]]
        return [chosen[place] for place in scores.argmax(dim=1).tolist()]

    def settings(self) -> dict[str, Any]:
        """What `make_head` needs to build this head again, as JSON values."""
        return {"class": "ClassPrototypes", "dims": [self.dim], "groups": self.groups}

    # -- a state that brings its classes along -----------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """The names as bytes: a state is saved as tensors."""
        return torch.tensor(list(json.dumps(self.groups).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over names."""
        self.groups = json.loads(bytes(state.tolist()))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        found = state_dict.get(f"{prefix}weight")
        if found is not None and found.shape[1:] == self.weight.shape[1:]:
            self.weight.data = self.weight.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)
