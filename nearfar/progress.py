"""Progress of long work, on standard error, only when it lasts longer than two seconds.

On a terminal it is a bar; elsewhere (a log file, CI) one plain line every ten seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds of work before anything is shown."""
PLAIN_INTERVAL = 10.0
"""Seconds between plain lines where standard error is no terminal."""


class Progress:
    """One running count. `advance` is cheap enough to be called at every step."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done, self.note = label, total, 0, ""
        self._started = self._printed = time.monotonic()
        self._bar: Any = None

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the bar (loss, rate ...)."""
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self._started < PATIENCE:
            return
        if sys.stderr.isatty():
            self._show_bar()
        elif now - self._printed >= PLAIN_INTERVAL:
            self._printed = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        seconds = now - self._started
        parts = [f"{self.label}: {self.done:,}" + (f"/{self.total:,}" if self.total else "")]
        if self.total and self.done:
            parts.append(f"{seconds * (self.total - self.done) / self.done:.0f} s left")
        return "  ".join([*parts, self.note]).rstrip()

    def _show_bar(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self.label, total=self.total, note="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done, note=self.note)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Progress]:
    """Show the progress of the block. `total` is the number of units, where it is known."""
    shown = Progress(label, total)
    try:
        yield shown
    finally:
        shown.close()


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` and show how many have passed."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with progress(label, total) as shown:
        for item in items:
            yield item
            shown.advance()
