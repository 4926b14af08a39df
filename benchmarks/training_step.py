"""What the training loop adds to the forward and backward pass of the encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.ratios import Ratio, in_turn
from nearfar.batching.order import batch_of, epoch_order
from nearfar.data.table import Table, read_table
from nearfar.training.loader import prepare_batch
from nearfar.training.settings import Settings
from nearfar.training.trainer import train
from nearfar.verbs.building import build_method

STEPS = 8
BATCH = 64


def run(data_dir: Path) -> list[Ratio]:
    """Steps of SimCSE on pairs of docstring and code, beside bare passes over the same batches."""
    table = read_table("builtin:python_code")
    rows = np.array(table.raw_cells("split")) == "train"
    table = table.select(np.flatnonzero(rows)[: STEPS * BATCH])
    method = build_method("simcse", table, encoder="minilm", hyperparameters={"head": "none"}, max_length=64)
    bare = build_method("simcse", table, encoder="minilm", hyperparameters={"head": "none"}, max_length=64)
    batches = [prepared(bare, table, number) for number in range(STEPS)]

    def ours() -> None:
        train(method, table, Settings(steps=STEPS, batch_size=BATCH, learning_rate=1e-6))

    def theirs() -> None:
        bare.train()
        for batch in batches:
            z = bare.embed(batch)
            torch.stack([value.sum() for value in z.values()]).sum().backward()
            bare.zero_grad(set_to_none=True)

    return [
        in_turn(
            f"{STEPS} training steps of {BATCH} pairs, MiniLM, reading and optimiser included",
            "bare forward and backward pass of the same encoder over the same batches",
            "at most 1.05 times the time (at least 0.95)",
            ours,
            theirs,
        )
    ]


def prepared(method: torch.nn.Module, table: Table, number: int) -> dict[str, object]:
    """The batch that the training loop makes at this step."""
    order = epoch_order(len(table), 0, 0)
    return prepare_batch(method, table, batch_of(order, number, BATCH), number)  # type: ignore[arg-type]
