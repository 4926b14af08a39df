"""The curve of a run: `log.csv` always, TensorBoard events where asked for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal, TextIO

from nearfar.errors import need
from nearfar.files import atomic_file


class Log:
    """Writes one row a step.

    Args:
        folder: where to; None writes nothing.
        kind: "csv", or "tensorboard" for events beside it.
        done: steps done before (a resumed run): later rows of an interrupted one are dropped.
    """

    def __init__(self, folder: Path | None, kind: Literal["csv", "tensorboard"], done: int) -> None:
        self._file: TextIO | None = None
        self._names: list[str] = []
        self._events: Any = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.csv"
        kept: list[dict[str, str]] = []
        if done and path.exists():
            with open(path, newline="", encoding="utf-8") as old:
                kept = [row for row in csv.DictReader(old) if row["step"] and int(row["step"]) <= done]
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        if kept:
            self._start(list(kept[0]))
            for row in kept:
                self._row(row)
        self._measures = folder / "measures.csv"
        if not done:
            self._measures.unlink(missing_ok=True)
        elif self._measures.exists():
            self._drop_later_measures(done)
        if kind == "tensorboard":
            need("tensorboard", "logs")
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def _drop_later_measures(self, done: int) -> None:
        with open(self._measures, newline="", encoding="utf-8") as old:
            heading, *rows = csv.reader(old)
        with (
            atomic_file(self._measures) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as new,
        ):
            csv.writer(new).writerows(
                [heading, *(row for row in rows if len(row) == 3 and int(row[0]) <= done)]
            )

    def _start(self, names: list[str]) -> None:
        assert self._file is not None
        self._names = names
        csv.writer(self._file).writerow(names)

    def _row(self, values: dict[str, Any]) -> None:
        csv.writer(self._file).writerow([values.get(name, "") for name in self._names])  # type: ignore[arg-type]

    def write(self, step: int, facts: dict[str, Any]) -> None:
        """Add the facts of one step."""
        if self._file is None:
            return
        if not self._names:
            self._start(["step", *facts])
        elif not facts.keys() <= set(self._names):
            self._widen([name for name in facts if name not in self._names])
        self._row({"step": step, **facts})
        if self._events is not None:
            for name, value in facts.items():
                self._events.add_scalar(f"train/{name}", value, step)

    def _widen(self, new: list[str]) -> None:
        """Write the file again with columns for terms that earlier steps did not have."""
        assert self._file is not None
        path = self._file.name
        self._file.close()
        with open(path, newline="", encoding="utf-8") as old:
            rows = list(csv.DictReader(old))
        self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._start([*self._names, *new])
        for row in rows:
            self._row(row)

    def write_measures(self, step: int, measured: dict[str, float]) -> None:
        """Add what was measured on held-out rows after `step`."""
        if self._file is None:
            return
        new = not self._measures.exists()
        with open(self._measures, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "measure", "value"])
            writer.writerows([step, name, value] for name, value in measured.items())
        if self._events is not None:
            for name, value in measured.items():
                self._events.add_scalar(f"measure/{name}", value, step)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
