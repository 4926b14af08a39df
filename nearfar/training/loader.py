"""Prepared batches, made in a background thread while the step before them computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from nearfar.data.table import Table
from nearfar.method import Batch, Method

T = TypeVar("T")
AHEAD = 2
"""Batches prepared before they are asked for."""
ALL_PROCESSES = 2**32 - 1
"""Stands for a rank in the seed of what all processes draw alike."""


def step_seed(seed: int, step: int, rank: int, turn: int = 0) -> int:
    """One seed for all randomness of a step in one process, and of each turn after the first."""
    drawn_from = [seed, step, rank, turn] if turn else [seed, step, rank]
    return int(np.random.SeedSequence(drawn_from).generate_state(1, np.uint64)[0] >> np.uint64(1))


def prepare_batch(method: Method, table: Table, rows: np.ndarray, seed: int) -> Batch:
    """Read rows and make tensors and views of them, with all randomness from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return method.prepare(method.examples(table, rows), generator)


def ahead(make: Callable[[int], T], numbers: range) -> Iterator[T]:
    """Yield make(number) for each number, computed in a thread up to `AHEAD` items early.

    An exception in the thread is raised here, at the item that caused it.
    """
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=AHEAD)
    stopped = threading.Event()

    def put(item: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        for number in numbers:
            if stopped.is_set():
                return
            try:
                put((make(number), None))
            except BaseException as error:
                put((None, error))
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in numbers:
            item, error = made.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a prepared batch."""
    if isinstance(batch, dict):
        return {role: to_device(value, device) for role, value in batch.items()}
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch
