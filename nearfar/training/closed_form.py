"""Methods that are fitted in closed form, and what they (and re-mining) encode with."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nearfar.data.table import Table
from nearfar.method import Embed, Method
from nearfar.training.run import Run
from nearfar.training.settings import Settings


def solved(method: Method, table: Table, settings: Settings, fabric: Fabric) -> Run:
    """Fit a method in closed form, in place."""
    started = time.monotonic()
    method.to(fabric.device)
    torch.manual_seed(settings.seed)
    method.solve(table, embedding_of(method))
    return Run(seconds=time.monotonic() - started)


def embedding_of(method: Method) -> Embed:
    """What `before_epoch` and `solve` get to encode one role of a table with."""

    def embed(table: Table, role: str) -> Tensor:
        space = method.space()
        cells = table.column(role)
        return torch.from_numpy(space.encode(cells, space.modality_for(role, cells[0])))

    return embed
