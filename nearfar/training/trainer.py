"""The training loop, for every method that learns from a table by gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from nearfar.batching.order import batch_of, batches_per_epoch
from nearfar.data.checks import require_rows
from nearfar.data.table import Table
from nearfar.errors import ArgumentError
from nearfar.method import Batch, Method
from nearfar.objectives.joined import joined_rows
from nearfar.progress import progress
from nearfar.training.alarms import EVERY, GRACE, CollapseAlarm, not_finite, require_finite
from nearfar.training.checkpoint import check_identity, latest_checkpoint, load_checkpoint, save_checkpoint
from nearfar.training.closed_form import solved
from nearfar.training.devices import make_fabric
from nearfar.training.finding import Finding
from nearfar.training.gather import average_gradients, gather, gather_plain, process_count, process_rank
from nearfar.training.gradient_cache import cached_backward
from nearfar.training.loader import ALL_PROCESSES, ahead, prepare_batch, step_seed, to_device
from nearfar.training.logs import Log
from nearfar.training.optimiser import rate_at, set_rate
from nearfar.training.run import Run
from nearfar.training.settings import Settings
from nearfar.training.stages import set_stage
from nearfar.training.turns import Side, make_sides
from nearfar.training.watch import Watch

Evaluate = Callable[[], dict[str, float]]
"""Measure the space in training on held-out rows: name -> value."""


def train(
    method: Method,
    table: Table,
    settings: Settings,
    *,
    folder: Path | None = None,
    evaluate: Evaluate | None = None,
    watch_better: str = "higher",
    resume: bool = False,
    fabric: Fabric | None = None,
) -> Run:
    """Train a method on a table, in place.

    Args:
        method: what to train.
        table: its rows, with the roles that the method reads.
        settings: how long and how.
        folder: where logs, checkpoints and failures go; None writes nothing.
        evaluate: measures on held-out rows; called every `settings.measure_every` steps.
        watch_better: which values of `settings.watch` are better: "higher", "lower" or "closer_to_zero".
        resume: go on from the newest checkpoint in `folder`, if there is one.
        fabric: devices, precision and processes; None makes one for this machine.

    Raises:
        TableError: fewer rows than a batch.
        ArgumentError: settings that do not fit the method, or that need `evaluate` without it.
        TrainingError: the loss is not finite, or the space has collapsed.
    """
    if type(method).solve is not Method.solve:
        return solved(method, table, settings, fabric or make_fabric(settings))
    if method.whole_table:
        settings = replace(settings, batch_size=len(table))
    return _Trainer(method, table, settings, folder, evaluate, watch_better, fabric).run(resume)


class _Trainer:
    def __init__(
        self,
        method: Method,
        table: Table,
        settings: Settings,
        folder: Path | None,
        evaluate: Evaluate | None,
        watch_better: str,
        fabric: Fabric | None,
    ) -> None:
        require_rows(table, settings.batch_size)
        self.fabric = fabric or make_fabric(settings)
        if settings.batch_size % process_count():
            raise ArgumentError(
                f"batch_size {settings.batch_size} cannot be shared by {process_count()} processes"
            )
        if settings.measure_every and evaluate is None:
            raise ArgumentError(
                "measure_every needs rows to measure on: a holdout_share above 0, or measure_on"
            )
        torch.manual_seed(step_seed(settings.seed, 0, ALL_PROCESSES))
        method.begin(table)
        method.to(self.fabric.device)
        self.sides = make_sides(method, settings, self.fabric)
        self.optimisers = [side.optimiser for side in self.sides]
        self.turns = [side for side in self.sides for _ in range(side.times)]
        if settings.cache_chunk and self.sides[0].loss is not None:
            raise ArgumentError(
                f"{type(method).__name__} computes its loss in one piece: it cannot use cache_chunk"
            )
        if settings.cache_chunk and method.whole_table:
            raise ArgumentError(
                f"{type(method).__name__} takes the whole table as one batch: it cannot use cache_chunk"
            )
        if method.whole_table and process_count() > 1:
            raise ArgumentError(
                f"{type(method).__name__} takes the whole table as one batch, whose rows may belong together: "
                "train it in one process"
            )
        self.method, self.table, self.settings, self.folder = method, table, settings, folder
        self.evaluate = evaluate
        self.steps = settings.total_steps(len(table))
        geometry = method.space().geometry
        self.alarm = CollapseAlarm(settings.on_collapse, round(GRACE * self.steps), geometry)
        self.watch = Watch(settings.watch, watch_better, settings.patience)
        self.run_so_far = Run()
        self.finding = Finding(method, table, settings, self.steps)
        self.learning: set[str] = set()  # names of embeddings that a gradient moves
        self.main = process_rank() == 0

    # -- the loop ----------------------------------------------------------------------------------

    def run(self, resume: bool) -> Run:
        done = self._resume() if resume else 0
        self.method.train()  # encoders are read in evaluation mode, and within an epoch nothing else changes it
        settings, run = self.settings, self.run_so_far
        log = Log(self.folder if self.main else None, settings.logs, done)
        started = time.monotonic()
        try:
            with progress("training", self.steps if self.main else None) as shown:
                shown.done = done
                while done < self.steps and run.stopped is None:
                    self.finding.before(done)
                    if self.finding.begins_epoch(done):
                        for side in self.sides:
                            side.begin_epoch()
                    for batches in ahead(self._batches, range(done, self.finding.next_after(done))):
                        set_stage(self.method, self.optimisers, done / self.steps)
                        facts = self._step(batches, done)
                        done += 1
                        run.steps = done
                        run.losses.append(facts["loss"])
                        log.write(done, facts)
                        shown.advance(note=_note(facts, done, started, settings))
                        if self._measure_and_save(done, started, log):
                            break
            run.seconds += time.monotonic() - started
        finally:
            log.close()
        if self.alarm.warning:
            run.warnings.append(self.alarm.warning)
        run.kept_step = self.watch.restore(self.method)
        return run

    def _batches(self, step: int) -> list[tuple[np.ndarray, Batch]]:
        """The batches whose gradients one step adds, prepared; runs in the background."""
        made = []
        for micro in range(step * self.settings.accumulate, (step + 1) * self.settings.accumulate):
            per_epoch = batches_per_epoch(len(self.table), self.settings.batch_size)
            epoch, number = divmod(micro, per_epoch)
            order = self.method.order(len(self.table), self.settings.batch_size, self.settings.seed, epoch)
            rows = batch_of(order, number, self.settings.batch_size, process_rank(), process_count())
            made.append((rows, prepare_batch(self.method, self.table, rows, self._seed(micro))))
        return made

    def _seed(self, micro: int, turn: int = 0) -> int:
        return step_seed(self.settings.seed, micro, process_rank(), turn)

    def _step(self, batches: list[tuple[np.ndarray, Batch]], done: int) -> dict[str, Any]:
        """One step of every side: the loss, its terms and the learning rate."""
        settings, method = self.settings, self.method
        rate = rate_at(done, self.steps, settings)
        prepared = [to_device(batch, self.fabric.device) for _, batch in batches]
        facts = {"step": done + 1, "seed": settings.seed, "rows": [rows.tolist() for rows, _ in batches]}
        loss = 0.0
        terms: dict[str, float] = {}
        for turn, side in enumerate(self.turns):
            set_rate(side.optimiser, rate)
            with side.alone(method):
                total, found, joined = self._learn(side, prepared, done, turn, facts)
            loss += total
            terms |= found
        method.after_step(joined, done + 1, self.steps)
        if (done + 1) % EVERY == 0:
            self.alarm.look({name: z for name, z in joined.items() if name in self.learning}, done + 1)
        negatives = method.negatives(settings.batch_size)
        return {
            "loss": loss,
            **({"excess": loss - math.log(negatives)} if negatives else {}),
            **(terms if len(terms) > 1 else {}),
            "learning_rate": rate,
        }

    def _learn(
        self, side: Side, prepared: list[Batch], done: int, turn: int, facts: dict[str, Any]
    ) -> tuple[float, dict[str, float], dict[str, Tensor]]:
        """One optimiser step: what was minimised, its terms, and the embeddings of all batches."""
        sums: dict[str, Tensor] = {}
        embedded: list[dict[str, Tensor]] = []
        totals: list[Tensor] = []
        folder = self.folder if self.main else None
        if side.name:
            facts = {**facts, "turn": side.name}
        for number, batch in enumerate(prepared):
            micro = done * self.settings.accumulate + number
            try:
                total, terms, z = self._backward(side, batch, micro, turn)
            except FloatingPointError as found:
                raise not_finite([str(found)], self.method, folder, facts) from None
            totals.append(total / len(prepared))
            embedded.append(z)
            for name, term in terms.items():
                shown = side.shown(name)
                sums[shown] = sums.get(shown, torch.zeros((), device=term.device)) + term / len(prepared)
        average_gradients(self.method.parameters())
        loss = torch.stack(totals).sum()
        norm = side.clip(self.method, self.settings, self.fabric)
        if not (bool(torch.isfinite(loss)) and bool(torch.isfinite(norm))):
            bad = [f"loss term {name!r}" for name, term in sums.items() if not bool(torch.isfinite(term))]
            raise not_finite(bad, self.method, folder, facts)
        side.prepared.step()
        side.optimiser.zero_grad(set_to_none=True)
        # Batches may be of two kinds.
        shared = [name for name in embedded[0] if all(name in z for z in embedded)]
        joined = {name: torch.cat([z[name] for z in embedded]) for name in shared}
        return float(loss), {name: float(term) for name, term in sums.items()}, joined

    def _backward(
        self, side: Side, batch: Batch, micro: int, turn: int
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Add the gradients of one batch; returns what was minimised, its terms and embeddings, detached."""
        method, settings = self.method, self.settings

        def embed(piece: Batch) -> dict[str, Tensor]:
            with self.fabric.autocast():
                z = method.embed(piece)
            # Of a frozen network a collapse is no fault of the run. (Without gradient, as in the first pass of the
            # cache, nothing requires any.)
            self.learning.update(name for name, value in z.items() if value.requires_grad)
            return z

        def loss(z: dict[str, Tensor]) -> dict[str, Tensor]:
            # Views and dropout differ between processes; what `contrast` draws must not.
            torch.manual_seed(step_seed(settings.seed, micro, ALL_PROCESSES))
            whole = {name: gather(value) for name, value in z.items()}
            require_finite(whole)
            plain = gather_plain(batch)
            with joined_rows(process_rank(), process_count()):
                return method.contrast(whole, plain)

        totals: list[Tensor] = []

        def backward(terms: dict[str, Tensor]) -> None:
            total = method.total(terms)
            totals.append(total.detach())
            self.fabric.backward(total / settings.accumulate)

        torch.manual_seed(self._seed(micro, turn))
        if side.loss is not None:
            with self.fabric.autocast():
                terms = side.loss(batch)
            backward(terms)
            z, method.watched = dict(method.watched), {}
            self.learning.update(z)
        elif settings.cache_chunk:
            terms, z = cached_backward(embed, loss, batch, settings.cache_chunk, backward)
        else:
            z = embed(batch)
            terms = loss(z)
            backward(terms)
        with torch.no_grad():
            joined = {name: gather(value.detach()) for name, value in z.items()}
        return totals[0], {name: term.detach() for name, term in terms.items()}, joined

    # -- measuring, saving, resuming ---------------------------------------------------------------

    def _measure_and_save(self, done: int, started: float, log: Log) -> bool:
        """Measure and checkpoint where it is time; True when training should stop."""
        settings, run = self.settings, self.run_so_far
        if self.evaluate and settings.measure_every and done % settings.measure_every == 0:
            measured = self.evaluate()
            self.method.train()
            log.write_measures(done, measured)
            if self.watch.see(measured, done, self.method):
                run.stopped = f"{settings.watch} did not improve at {settings.patience} measurements in a row"
        if self.folder and self.main and settings.checkpoint_every and done % settings.checkpoint_every == 0:
            log.flush()
            facts = {
                "step": done,
                "losses": run.losses,
                "seconds": run.seconds + time.monotonic() - started,
                "stopped": run.stopped,
                "looks": self.alarm.looks,
                "watch": self.watch.state(self.folder),
                "settings": self._identity(),
                "scaler": self.fabric.strategy.precision.state_dict(),  # numbers; empty but for 16-mixed
            }
            place = self.folder / "checkpoints"
            save_checkpoint(place, self.method, self.optimisers, facts, self.finding.starts)
        return run.stopped is not None

    def _resume(self) -> int:
        """Take up the newest checkpoint, if there is one; returns the steps done."""
        place = latest_checkpoint(self.folder / "checkpoints") if self.folder else None
        if place is None or self.folder is None:
            return 0
        facts = load_checkpoint(place, self.method, self.optimisers)
        check_identity(place, facts["settings"], self._identity())
        self.run_so_far = Run(facts["step"], facts["losses"], facts["seconds"], facts["stopped"])
        self.alarm.looks = facts["looks"]
        self.watch.load(facts["watch"], self.folder)
        if facts.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(facts["scaler"])
        self.finding.again(place, facts["step"])
        step: int = facts["step"]
        return step

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        return {**self.settings.identity(), "table": self.table.fingerprint, "processes": process_count()}


def _note(facts: dict[str, Any], done: int, started: float, settings: Settings) -> str:
    shown = f"loss {facts['loss']:.3f}"
    if "excess" in facts:
        shown += f" (loss - log n {facts['excess']:+.2f})"
    return f"{shown}  lr {facts['learning_rate']:.1e}"
