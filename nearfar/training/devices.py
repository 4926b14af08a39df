"""The devices and processes that a run uses."""

from __future__ import annotations

import atexit
import os

import torch
from lightning_fabric import Fabric

from nearfar.training.gather import leave_processes
from nearfar.training.settings import Settings


def make_fabric(settings: Settings) -> Fabric:
    """Fabric for this machine: one process, or the processes that torchrun started."""
    under_torchrun = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else 1
    fabric = Fabric(
        accelerator="auto",
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here if under_torchrun else 1,
        strategy="ddp" if under_torchrun else "auto",
        precision=settings.precision,
    )
    fabric.launch()
    atexit.register(leave_processes)
    return fabric
