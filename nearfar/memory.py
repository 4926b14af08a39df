"""What a piece of work needs of memory."""

from __future__ import annotations

import re
from pathlib import Path

_PROCESS = Path("/proc/self")


def reset_peak() -> None:
    """Let the peak of this process begin anew; does nothing where the system has no such thing (Linux has)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return


def peak_mb() -> float | None:
    """Most memory that this process held since `reset_peak`, in MB (2^20 bytes); None where it cannot be told."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROCESS / "status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None
