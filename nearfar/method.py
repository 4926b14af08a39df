"""What a method is: one published way to make a space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.batching.order import epoch_order
from nearfar.data.kinds import Audio, Id, Image, Label, Number, Reading, Text, Vector
from nearfar.encoders.encoder import Encoder
from nearfar.errors import ArgumentError

if TYPE_CHECKING:
    from nearfar.data.table import Table
    from nearfar.space import Space

Batch = dict[str, Any]
"""What `prepare` returns: role -> tensor, or role -> the tensors of an encoder's `prepare`."""

Embed = Callable[["Table", str], Tensor]
"""Encode one role of a table with the encoder in training, in evaluation mode: [N, d]."""


@dataclass(frozen=True)
class Stage:
    """One phase of training.

    Attributes:
        name: shown beside the progress bar and in the log.
        share: the part of all steps that this stage takes, in (0, 1].
        train: the parameters that learn in it; None means all that require gradient.
    """

    name: str = "train"
    share: float = 1.0
    train: Iterable[nn.Parameter] | None = None


@dataclass(frozen=True)
class Turn:
    """One side of an alternating optimisation: its parameters, and the loss that it lowers by them.

    Every turn has an optimiser of its own, also where two move the same parameters, and draws random numbers of its
    own. Nothing else learns in it or gets a gradient.

    Attributes:
        name: shown before its loss terms in the log.
        train: the parameters that learn in it.
        loss: prepared batch -> named loss terms whose sum is minimised.
        betas: of its Adam.
        rate: scales the learning rate.
        times: how often in a row it is taken in a step, on the same batch.
        fresh: whether its Adam begins anew, without moments, at every pass over the table.
    """

    name: str
    train: Sequence[nn.Parameter]
    loss: Callable[[Batch], dict[str, Tensor]]
    betas: tuple[float, float] = (0.9, 0.999)
    rate: float = 1.0
    times: int = 1
    fresh: bool = False


class Method(nn.Module, ABC):
    """One published system.

    A subclass says in `reads` which roles it takes from a table, gets its encoders and its
    hyperparameters in `__init__`, and implements `embed` and `contrast`. The cut between the two is
    where gradient caching, gathering across processes and mixed precision happen, for all methods.
    One that cannot be cut overrides `loss`; one whose sides learn in alternation, `turns`; one that learns
    nothing by gradient, `solve`.
    """

    reads: ClassVar[Mapping[str, Reading]]
    whole_table: ClassVar[bool] = False
    """Whether a batch is always the whole table, as where all rows are the nodes of one graph."""
    together: ClassVar[str | None] = None
    """A role whose equal cells stay on one side when rows are held out: episodes, speakers, documents."""
    watched: Mapping[str, Tensor] = {}
    """What a `loss` in one piece leaves here, detached, to be looked at for collapse, as the result of `embed` is."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cut = cls.embed is not Method.embed and cls.contrast is not Method.contrast
        whole = cls.loss is not Method.loss or cls.turns is not Method.turns
        if not cut and not whole and cls.solve is Method.solve:
            raise TypeError(
                f"{cls.__name__} must implement embed and contrast, loss where it cannot be cut, turns where sides "
                "alternate, or solve where nothing is learned by gradient"
            )

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Embed a batch. Every value has one row per example (first dimension B)."""
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    def contrast(self, z: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Compare embeddings: named loss terms whose sum is minimised.

        `z` and the plain tensors in `batch` hold the rows of all processes; encoder inputs do not
        reach this function across processes and must not be used here.
        """
        raise NotImplementedError(f"{type(self).__name__} computes its loss in one piece")

    @abstractmethod
    def space(self) -> Space:
        """What is left after training. Shares its modules with the method; saving it copies them."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of one batch, of all turns if there are any.

        Override only where `embed` and `contrast` cannot be cut.
        """
        turns = self.turns()
        if not turns:
            return self.contrast(self.embed(batch), batch)
        return {f"{turn.name}/{name}": term for turn in turns for name, term in turn.loss(batch).items()}

    def negatives(self, batch_size: int) -> int:
        """Negatives each anchor meets; the loss is shown minus its logarithm, so that batches compare.

        0 where the loss is no InfoNCE and such a figure would mean nothing.
        """
        return batch_size - 1

    def begin(self, table: Table) -> None:
        """Called once, before the optimiser is made: refuse what cannot be trained on, make what its widths decide.

        The global random state is the same in every process and every run of one seed.
        """

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """What is minimised. Override where gradients of the terms are weighed against each other."""
        return torch.stack(list(terms.values())).sum()

    def examples(self, table: Table, rows: np.ndarray) -> dict[str, list[Any]]:
        """The raw cells of a batch: role -> cells.

        Override where an example needs cells of other rows too: mined negatives, windows of a series. Runs in the
        background like `prepare`, to which its result goes.

        Args:
            table: the training rows.
            rows: int64 row numbers of the batch [B].
        """
        cells = table.rows(rows)
        return {role: cells[role] for role in self.reads if role in cells}

    def prepare(self, rows: dict[str, list[Any]], generator: torch.Generator) -> Batch:
        """Turn the raw cells of a batch into tensors; make views here.

        Runs in a background thread: it must not touch parameters, and takes all randomness from
        `generator`, so that a step depends on nothing but the seed and its number.
        """
        return {role: self._prepare_cells(cells) for role, cells in rows.items()}

    def _prepare_cells(self, cells: list[Any]) -> Any:
        for encoder in self.encoders():
            if encoder.kind.holds(cells[0]):
                return encoder.prepare(cells)
        if isinstance(cells[0], (int, float)):  # labels, identities, scores
            return torch.tensor(cells)
        given = ", ".join(encoder.kind.name for encoder in self.encoders()) or "nothing"
        raise ArgumentError(
            f"no encoder reads {type(cells[0]).__name__}; this method was given encoders of {given}"
        )

    def encoders(self) -> list[Encoder]:
        """The encoders of this method, in order of assignment (copies in teachers come after)."""
        return [module for module in self.modules() if isinstance(module, Encoder)]

    def stages(self) -> list[Stage]:
        """The phases of training, in order; shares sum to 1."""
        return [Stage()]

    def turns(self) -> list[Turn]:
        """The sides of an alternating optimisation, in the order in which they learn at every step.

        Without turns everything learns at once, by one optimiser. Asked for before the first step.
        """
        return []

    def before_epoch(self, table: Table, embed: Embed) -> None:
        """Called before every pass over the table: re-mine, re-cluster."""

    def refreshes(self, steps: int) -> Sequence[int]:
        """The steps, of 0 ... `steps` - 1, before which `refresh` is called: to re-mine by steps, not by epochs."""
        return ()

    def refresh(self, table: Table, embed: Embed, step: int, steps: int) -> None:
        """Called before the steps that `refreshes` names; `step` of the `steps` in all are done.

        As in `before_epoch`, the global generator is seeded for this call, and what is found is no state: a run
        that is resumed later finds it again, with the weights of this moment.
        """

    def order(self, rows: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """The rows of an epoch: batch i is entries [i * batch_size, (i + 1) * batch_size).

        Override where it matters who meets whom: batches from mined neighbours, windows of running text. Called
        in the background, often, after `before_epoch`: it must be quick and depend on nothing else that changes.

        Returns:
            int64 row numbers; a row may be missing or come twice, but there are as many as `rows`.
        """
        return np.arange(rows) if self.whole_table else epoch_order(rows, seed, epoch)

    def before_task(self, number: int, tasks: Sequence[str], table: Table) -> None:
        """Called before each task where tasks are learned one after the other: keep a teacher, add prototypes.

        A method that overrides it is trained by `training.continual` and reads a role `task`. What it makes must
        be part of its state: a resumed run loads what was kept after the task before, and calls it once.

        Args:
            number: of the task, from 0.
            tasks: the names of all, in order.
            table: the rows of this one; those of earlier ones are never read again.
        """

    def task_length(self, number: int) -> float:
        """How many times as long as the settings say a task is trained."""
        return 1.0

    def solve(self, table: Table, embed: Embed) -> None:
        """Fit in closed form instead of by gradient. A method that overrides it has no loss and no steps."""
        raise NotImplementedError(f"{type(self).__name__} learns by gradient")

    def notes(self) -> list[str]:
        """What a run's card should tell beside measures, in sentences; asked for after training."""
        return []

    def after_step(self, z: dict[str, Tensor], step: int, steps: int) -> None:
        """Called after every optimiser step: move averages, push queues, follow schedules.

        `z` is what `embed` returned for the whole batch (all processes), detached; of a `loss` in one piece, what
        it left in `watched`.
        """


__all__ = [
    "Audio",
    "Batch",
    "Embed",
    "Id",
    "Image",
    "Label",
    "Method",
    "Number",
    "Stage",
    "Text",
    "Turn",
    "Vector",
]
