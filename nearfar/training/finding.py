"""What a method finds on its way (mined negatives, clusters), and how a resumed run finds it again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nearfar.batching.order import batches_per_epoch
from nearfar.data.table import Table
from nearfar.errors import ArgumentError
from nearfar.method import Method
from nearfar.training.checkpoint import copied, load_start
from nearfar.training.closed_form import embedding_of
from nearfar.training.loader import ALL_PROCESSES, step_seed
from nearfar.training.settings import Settings

Occasion = Literal["epoch", "refresh"]
OCCASIONS: tuple[Occasion, ...] = ("epoch", "refresh")
"""When a method looks for something: `Method.before_epoch` and `Method.refresh`, in the order of their calls."""


class Finding:
    """Calls `before_epoch` and `refresh` before the steps where they are due.

    What they find depends on the weights of that moment and is not saved. Where checkpoints are written, the
    weights with which each was last called are, and a resumed run calls it again with them.

    Args:
        method: what is trained.
        table: on which rows.
        settings: how.
        steps: of the whole run.

    Attributes:
        starts: occasion -> the method's state when it last came, to be written with a checkpoint.

    Raises:
        ArgumentError: the method names a step for `refresh` that the run does not have.
    """

    def __init__(self, method: Method, table: Table, settings: Settings, steps: int) -> None:
        self.method, self.table, self.settings, self.steps = method, table, settings, steps
        self.per_epoch = batches_per_epoch(len(table), settings.batch_size)
        self.refreshes = set(method.refreshes(steps))
        if strange := self.refreshes - set(range(steps)):
            raise ArgumentError(
                f"{type(method).__name__}.refreshes names step {min(strange)}; the run has steps 0 to {steps - 1}"
            )
        self.starts: dict[str, dict[str, Tensor]] = {}
        # Methods that find nothing need no copy of their weights.
        self._looks = {
            "epoch": type(method).before_epoch is not Method.before_epoch,
            "refresh": bool(self.refreshes),
        }

    def before(self, step: int) -> None:
        """Find what is due before a step."""
        for occasion in OCCASIONS:
            if self._due(occasion, step):
                self._find(occasion, step)

    def next_after(self, step: int) -> int:
        """The first later step before which something is due, or the end of the run."""
        later = range(step + 1, self.steps)
        return next((s for s in later if any(self._due(o, s) for o in OCCASIONS)), self.steps)

    def begins_epoch(self, step: int) -> bool:
        """Whether a step is the first one with a batch of its epoch."""
        return step == 0 or self._epoch(step) > self._epoch(step - 1)

    def again(self, place: Path, done: int) -> None:
        """Find again what the run had found when it wrote the checkpoint `place` after `done` steps."""
        now = copied(self.method.state_dict())
        last = {o: max((s for s in range(done) if self._due(o, s)), default=0) for o in OCCASIONS}
        for occasion in sorted(OCCASIONS, key=lambda o: last[o]):
            start = load_start(place, occasion)
            if start is not None and not self._due(occasion, done):
                self.method.load_state_dict(start)
                self._find(occasion, last[occasion])
        self.method.load_state_dict(now)

    def _epoch(self, step: int) -> int:
        """The epoch that the first batch of a step is from."""
        return step * self.settings.accumulate // self.per_epoch

    def _due(self, occasion: Occasion, step: int) -> bool:
        return step in self.refreshes if occasion == "refresh" else self.begins_epoch(step)

    def _find(self, occasion: Occasion, step: int) -> None:
        if self.settings.checkpoint_every and self._looks[occasion]:
            self.starts[occasion] = copied(self.method.state_dict())
        number = self._epoch(step) if occasion == "epoch" else step
        torch.manual_seed(step_seed(self.settings.seed, number, ALL_PROCESSES))
        embed = embedding_of(self.method)
        if occasion == "epoch":
            self.method.before_epoch(self.table, embed)
        else:
            self.method.refresh(self.table, embed, step, self.steps)
        self.method.train()
